/**
 * Calls that wait until a request is planned, refused or raised (`?wait=`). Called by the handler of `request`. A
 * waiter never outlives its caller's connection, its time or the interface, and their number is bounded: beyond the
 * bound a call is answered at once with the request as it stands, which the caller must expect anyway.
 */
import type { Request } from '../domain/state.ts'
import type { ApiPorts } from './ports.ts'
import { findRequest } from './views.ts'

/** Calls back when the caller has gone away; the answer stops listening. */
export type WhenGone = (callback: () => void) => () => void

export type Waiters = {
  /** The request once it is settled, or as it stands when the time is over. */
  readonly settled: (id: string, waitMs: number, whenGone: WhenGone) => Promise<Request | undefined>
  readonly size: () => number
  readonly close: () => void
}

export function createWaiters(ports: ApiPorts, most: number): Waiters {
  const open = new Set<() => void>()
  let isClosed = false
  const look = (id: string) => findRequest(ports, id)

  async function settled(id: string, waitMs: number, whenGone: WhenGone): Promise<Request | undefined> {
    const now = look(id)
    if (waitMs === 0 || isClosed || open.size >= most || isSettled(now)) return now
    return new Promise((resolve) => {
      const end = () => {
        if (!open.delete(end)) return
        stopRows()
        stopTime()
        stopGone()
        resolve(look(id))
      }
      open.add(end)
      // Every row, not only those that name the request: what a row says is for people, what counts is the state.
      const stopRows = ports.driver.onRow(() => isSettled(look(id)) && end())
      const stopTime = ports.clock.after(waitMs, end)
      const stopGone = whenGone(end)
    })
  }

  return {
    settled,
    size: () => open.size,
    close: () => {
      isClosed = true
      for (const end of open) end()
    },
  }
}

function isSettled(request: Request | undefined): boolean {
  return request === undefined || (request.state !== 'planning' && request.state !== 'raising')
}

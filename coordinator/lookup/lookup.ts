/**
 * Which machines there are, as a source outside smith has it: asked at the edge for each request, just before the
 * request enters the core. Called by the composition. Nothing is kept between two lookups, so that an old list can't
 * be served; a source that does not answer well, whole and in time is told with its reason, and the core refuses.
 */
import type { Known } from '../domain/known.ts'
import type { Clock } from '../ports.ts'
import { type AskPorts, askJson, parsed } from './ask.ts'
import { LookupError } from './failure.ts'
import { type Given, listOf } from './names.ts'
import { netboxMachines } from './netbox.ts'
import { machinesIn } from './shapes.ts'

export type LookupPorts = AskPorts & {
  readonly clock: Clock
  /** How a person names the source; no secret stands in it. */
  readonly source: string
  /** The coordinator's instant. */
  readonly now: () => number
}
export type Lookup = {
  readonly source: string
  /** Never rejects. */
  readonly ask: () => Promise<Known>
}

export function createLookup(ports: LookupPorts): Lookup {
  let current: Promise<Known> | null = null
  let next: Promise<Known> | null = null
  const begin = (): Promise<Known> => {
    next = null
    current = askOnce(ports)
    return current.finally(() => (current = null))
  }
  return {
    source: ports.source,
    // However many ask, the source has one question at a time. Who comes while it answers shares the answer after
    // that one: this answer may have been read before they came.
    ask: () => {
      if (current === null && next === null) return begin()
      next ??= (current ?? Promise.resolve()).then(begin)
      return next
    },
  }
}

async function askOnce(ports: LookupPorts): Promise<Known> {
  const { settings, clock, source } = ports
  const at = ports.now()
  const end = clock.monotonicNow() + settings.totalMsMax
  try {
    const given = await inTime(
      ports,
      read(ports, () => end - clock.monotonicNow()),
    )
    return { source, at, machines: listOf(given, settings) }
  } catch (error) {
    if (error instanceof LookupError) return { source, at, problem: error.message, remedy: error.remedy }
    const problem = `can't be read: ${error instanceof Error ? error.message : String(error)}`
    return { source, at, problem, remedy: 'see [lookup] in the configuration' }
  }
}

async function read(ports: LookupPorts, left: () => number): Promise<Given[]> {
  const { settings } = ports
  switch (settings.source) {
    case 'netbox':
      return netboxMachines(ports, left)
    case 'http':
      return machinesIn(await askJson(ports, new URL(settings.url), left), settings.statuses)
    case 'file': {
      const document = parsed(await ports.readFile(settings.file, settings.bytesMax))
      if (document === undefined)
        throw new LookupError('holds no whole JSON', 'write it anew, to another name first and then rename it')
      return machinesIn(document, settings.statuses)
    }
  }
}

/** A file on a disk that hangs has no time limit of its own. */
function inTime<Value>({ settings, clock }: LookupPorts, doing: Promise<Value>): Promise<Value> {
  return new Promise((resolve, reject) => {
    const late = () =>
      reject(
        new LookupError(
          `was not read whole within ${settings.totalMsMax / 1000} s`,
          'see why it is slow, or raise lookup.total',
        ),
      )
    const disarm = clock.after(settings.totalMsMax, late)
    void doing.then(resolve, reject).finally(disarm)
  })
}

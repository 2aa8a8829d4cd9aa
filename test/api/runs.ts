/** Machines of a test's world that say what a run did and printed, with the numbers of its records. */
import type { Result, RunRecord, Step } from '../../protocol/files.ts'
import { ORDER_STEPS, resultRecord } from '../coordinator/agent.ts'
import type { AgentNews } from '../../coordinator/domain/events.ts'
import type { World } from './world.ts'

export type RunningMachine = Awaited<ReturnType<World['machine']>> & Runs
export type Runs = {
  /** Says what a run printed and did, of the newest grant; the records are numbered on. */
  readonly records: (...records: readonly Loose[]) => Promise<void>
  readonly end: (outcome: Result['outcome'], fields?: Partial<Result>) => Promise<void>
  readonly succeed: () => Promise<void>
  readonly fail: (fields: Partial<Result>, lines?: readonly string[]) => Promise<void>
}
type Loose = Readonly<Record<string, unknown>>

/** What says the news of a machine, and the grants that it has got. */
type Speaking = {
  readonly say: (news: AgentNews) => Promise<unknown>
  readonly grants: readonly { readonly order: string }[]
}

export function withRuns<Machine extends Speaking>(
  world: { readonly driver: { readonly now: () => number } },
  machine: Machine,
): Machine & Runs {
  const sent = new Map<string, number>()
  const records = async (...given: readonly Loose[]) => {
    const order = machine.grants.at(-1)?.order ?? ''
    const from = (sent.get(order) ?? 0) + 1
    sent.set(order, from + given.length - 1)
    const numbered = given.map((one, index) => ({ n: from + index, at: world.driver.now(), ...one }) as RunRecord)
    await machine.say({ t: 'records', order, records: numbered })
  }
  const steps = (...names: readonly Step[]) => records(...names.map((step) => ({ type: 'step', step })))
  const end = async (outcome: Result['outcome'], fields: Partial<Result> = {}) => {
    const { n: _, at: __, ...rest } = resultRecord(0, outcome, fields)
    await records(rest)
  }
  return {
    ...machine,
    records,
    end,
    succeed: async () => {
      await steps(...ORDER_STEPS)
      await records(line('Setting up hello (2.0) ...', 0))
      await steps('post-checks', 'verify')
      await end('succeeded')
    },
    fail: async (fields, lines = []) => {
      await steps(...ORDER_STEPS)
      for (const [index, text] of lines.entries()) await records(line(text, index))
      await end('failed', { latched: true, ...fields })
    },
  }
}

export function line(text: string, offset: number): Loose {
  return { type: 'line', step: 'install', offset, text: `${text}\n` }
}

/** Where the lookup meets the rest: before a request enters the core, in the list of differences, and in the doctor. */
import type { Refusal } from '../../protocol/errors.ts'
import type { DoctorView, MissingView } from '../../protocol/http.ts'
import type { Driver } from '../driver.ts'
import { differencesOf } from './differences.ts'
import type { Lookup } from './lookup.ts'

type Missing =
  | { readonly ok: true; readonly value: MissingView }
  | { readonly ok: false; readonly refusals: readonly Refusal[] }

/**
 * Whoever makes a request, the source is asked just before it enters the core. A request made again with its key is
 * answered by the core, whatever the source says by then.
 */
export function withLookup(driver: Driver, lookup: Lookup): Driver {
  return {
    ...driver,
    submit: async (actor, event) => {
      if (event.type !== 'command' || event.command.type !== 'request') return driver.submit(actor, event)
      const { key } = event.command
      if (key !== null && driver.view.archived('requestKeys', key) !== undefined) return driver.submit(actor, event)
      return driver.submit(actor, { ...event, command: { ...event.command, known: await lookup.ask() } })
    },
  }
}

/** What the source and the enrolled machines have each for itself. */
export async function missingOf(driver: Driver, lookup: Lookup): Promise<Missing> {
  const known = await lookup.ask()
  if ('machines' in known) return { ok: true, value: differencesOf(driver.view, known) }
  const { source, problem, remedy } = known
  return { ok: false, refusals: [{ kind: 'unavailable', message: `${source} ${problem}`, remedy }] }
}

/** For `smith doctor`. */
export async function findingOf(lookup: Lookup): Promise<DoctorView['findings'][number]> {
  const known = await lookup.ask()
  return 'machines' in known
    ? {
        subject: 'lookup',
        level: 'good',
        text: `${known.source} knows ${known.machines.length} machines`,
        remedy: null,
      }
    : { subject: 'lookup', level: 'bad', text: `${known.source} ${known.problem}`, remedy: known.remedy }
}

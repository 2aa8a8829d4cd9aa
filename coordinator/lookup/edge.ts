/** Where the lookup meets the rest: before a request enters the core, in the list of differences, and in the doctor. */
import type { Refusal } from '../../protocol/errors.ts'
import type { DoctorView, MissingView } from '../../protocol/http.ts'
import type { Event } from '../domain/events.ts'
import type { Driver } from '../driver.ts'
import { differencesOf } from './differences.ts'
import type { Lookup } from './lookup.ts'

type Missing =
  | { readonly ok: true; readonly value: MissingView }
  | { readonly ok: false; readonly refusals: readonly Refusal[] }

/**
 * Whoever makes a request, a person or a schedule, the source is asked just before it enters the core. A request made
 * again with its key is answered by the core, whatever the source says by then.
 */
export function withLookup(driver: Driver, lookup: Lookup): Driver {
  return { ...driver, submit: async (actor, event) => driver.submit(actor, await withKnown(driver, lookup, event)) }
}

async function withKnown(driver: Driver, lookup: Lookup, event: Event): Promise<Event> {
  if (event.type === 'scheduleDue') return { ...event, known: await lookup.ask() }
  if (event.type !== 'command') return event
  const { command } = event
  const isAsked =
    command.type === 'scheduleRun' ||
    (command.type === 'request' && (command.key === null || !isKnownKey(driver, command.key)))
  return isAsked ? { ...event, command: { ...command, known: await lookup.ask() } } : event
}

function isKnownKey({ view }: Driver, key: string): boolean {
  return view.archived('requestKeys', key) !== undefined
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

/**
 * What the routes of the audit do: the acts of the journal by person, change, machine and time, and the check of its
 * chain. Called by handlers.ts. A page looks at so many rows and no more, and a check gives way to turns in between.
 */
import { setImmediate } from 'node:timers/promises'
import type { Refusal } from '../../protocol/errors.ts'
import type { Act, AuditVerdict } from '../../protocol/audit.ts'
import type { Fact, FeedRow } from '../../protocol/feed.ts'
import { isAct } from '../domain/acts.ts'
import { createVerifier } from '../domain/chain.ts'
import type { Actor } from '../domain/state.ts'
import { journalName } from '../domain/planning.ts'
import { numberOf, refuse } from './bodies.ts'
import type { Hand, Handlers } from './calls.ts'
import { createQueue } from './one-at-a-time.ts'
import type { ApiPorts } from './ports.ts'

const PAGE_MAX = 1000
/** Rows that a page looks at, whether they are asked for or not. */
const LOOKED_AT_MAX = 5000
const ROWS_AT_ONCE = 500
const NUMBER_MAX = Number.MAX_SAFE_INTEGER

type Wanted = {
  readonly person: string | undefined
  readonly change: string | undefined
  readonly machine: string | undefined
  readonly since: number
  readonly until: number
}

export function audit(ports: ApiPorts): Pick<Handlers, 'audit' | 'auditVerify'> {
  const { store } = ports
  const queued = createQueue()
  return {
    audit: ({ query }) => {
      const numbers = [
        numberOf(query, 'before', { fallback: NUMBER_MAX, min: 1, max: NUMBER_MAX }),
        numberOf(query, 'limit', { fallback: PAGE_MAX, min: 1, max: PAGE_MAX }),
        numberOf(query, 'since', { fallback: 0, min: 0, max: NUMBER_MAX }),
        numberOf(query, 'until', { fallback: NUMBER_MAX, min: 0, max: NUMBER_MAX }),
      ]
      const refusals = numbers.flatMap((one) => (one.ok ? [] : one.refusals))
      if (refusals.length > 0) return { ok: false, refusals }
      const [before = 0, limit = 0, since = 0, until = 0] = numbers.map((one) => (one.ok ? one.value : 0))
      const { person, change, machine } = query
      return { ok: true, value: pageOf(store, { person, change, machine, since, until }, { before, limit }) }
    },
    auditVerify: async ({ query, whenGone }) => {
      const head = query['head'] ?? null
      if (head !== null && !/^[0-9a-f]{64}$/.test(head))
        return refuse('bad-value', 'head is no SHA-256', 'give the head that a check or a backup showed', 'head')
      return { ok: true, value: await queued((isGone) => checkChain(ports, head, isGone), whenGone) }
    },
  }
}

async function checkChain(
  { store, tools }: ApiPorts,
  head: string | null,
  isGone: () => boolean,
): Promise<AuditVerdict> {
  const verifier = createVerifier(tools.sha256, head)
  const upTo = store.rev()
  for (let since = 0; since < upTo && !isGone();) {
    const rows = store.chain({ since, limit: ROWS_AT_ONCE }).filter((row) => row.rev <= upTo)
    for (const row of rows) verifier.take(row)
    since = rows.at(-1)?.rev ?? upTo
    await setImmediate()
  }
  return verifier.verdict()
}

function pageOf(store: ApiPorts['store'], wanted: Wanted, page: { readonly before: number; readonly limit: number }) {
  const acts: Act[] = []
  let { before } = page
  for (let looked = 0; looked < LOOKED_AT_MAX; looked += ROWS_AT_ONCE) {
    const rows = store.acts({ before, limit: ROWS_AT_ONCE })
    for (const row of rows) {
      if (row.at < wanted.since) return { acts, next: null }
      if (row.at <= wanted.until) acts.push(...actsOf(row).filter((act) => isWanted(act, wanted)))
      before = row.rev
      if (acts.length >= page.limit) return { acts, next: before }
    }
    if (rows.length < ROWS_AT_ONCE) return { acts, next: null }
  }
  return { acts, next: before }
}

function actsOf(row: FeedRow): Act[] {
  return row.facts.filter(isAct).map((fact) => ({
    rev: row.rev,
    at: row.at,
    who: row.actor,
    what: fact.fact,
    change: fact.change ?? null,
    machine: fact.machine ?? null,
    about: aboutOf(fact),
    reason: fact.reason ?? null,
  }))
}

function aboutOf(fact: Fact): string | null {
  const words = [fact.text, fact.state, fact.cause].filter((word) => word !== undefined && word !== '')
  return words.length === 0 ? null : words.join(', ')
}

/** A person is meant by name: as who did it, through a bot or as the bot, or as whom a provider named. */
function isWanted(act: Act, { person, change, machine }: Wanted): boolean {
  const isBy =
    person === undefined ||
    act.who.split(' via ').includes(person) ||
    (act.who === 'change' && act.reason === `by ${person}`)
  return isBy && (change === undefined || act.change === change) && (machine === undefined || act.machine === machine)
}

const NOTE_MS = 60_000
const NOTES_MAX = 10_000

/** Records who was not let through to what; the same again only after a minute, so that nobody fills the journal. */
export function createRefusalNotes(
  { clock, log }: ApiPorts,
  hand: Hand,
): (actor: Actor, call: string, refusal: Refusal) => void {
  const notedAt = new Map<string, number>()
  return (actor, call, { message }) => {
    const key = `${journalName(actor)} ${call}`
    const now = clock.monotonicNow()
    if (now - (notedAt.get(key) ?? Number.NEGATIVE_INFINITY) < NOTE_MS) return
    if (notedAt.size >= NOTES_MAX) notedAt.clear()
    notedAt.set(key, now)
    hand
      .submit({ actor }, { type: 'callRefused', call, reason: message })
      .catch((error: unknown) => log.debug({ err: error, call }, 'a refusal was not recorded: the coordinator ends'))
  }
}

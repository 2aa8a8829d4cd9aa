/**
 * A draft: the state as one step sees it while it decides. It reads through to the view and collects what the step
 * writes, appends, sends and says; the driver commits that as one turn. Nothing here outlives the step.
 */
import type { Fact } from '../../protocol/feed.ts'
import type { LogAppend, Outcome, Reply, Send, Tools } from './events.ts'
import { type Actor, type Instance, type Instant, TABLES, type TableName, type Tables, type Write } from './state.ts'

/** The state in memory, read-only. Rows of finished projects are in the store only. */
export type View = {
  readonly get: <Name extends TableName>(table: Name, key: string) => Tables[Name] | undefined
  readonly entries: <Name extends TableName>(table: Name) => Iterable<readonly [string, Tables[Name]]>
  readonly all: <Name extends TableName>(table: Name) => Iterable<Tables[Name]>
  readonly size: (table: TableName) => number
  /** A row from the store, whether it is in memory or not: plans, and what belongs to finished projects. */
  readonly archived: <Name extends TableName>(table: Name, key: string) => Tables[Name] | undefined
}

export type Draft = View & {
  readonly at: Instant
  readonly actor: Actor
  readonly tools: Tools
  readonly put: <Name extends TableName>(table: Name, key: string, row: Tables[Name]) => void
  /** Keeps the row in the store and drops it from memory. */
  readonly retire: <Name extends TableName>(table: Name, key: string, row: Tables[Name]) => void
  readonly remove: (table: TableName, key: string) => void
  readonly append: (log: LogAppend) => void
  readonly send: (send: Send) => void
  readonly say: (fact: Fact) => void
  /** Something happened that may let the project go on, or stop it; the step looks at it before it ends. */
  readonly touch: (project: string) => void
  readonly takeTouched: () => string | undefined
  readonly outcome: (reply: Reply) => Outcome
}

type Entry = { readonly table: TableName; readonly key: string; readonly row: unknown; readonly live: boolean }

export function createDraft(view: View, envelope: { at: Instant; actor: Actor }, tools: Tools): Draft {
  const written = new Map<TableName, Map<string, Entry>>()
  const logs: LogAppend[] = []
  const sends: Send[] = []
  const facts: Fact[] = []
  const touched = new Set<string>()
  const write = (entry: Entry) => {
    const table = written.get(entry.table) ?? new Map<string, Entry>()
    written.set(entry.table, table.set(entry.key, entry))
  }
  const entryOf = (table: TableName, key: string) => written.get(table)?.get(key)
  const entries = <Name extends TableName>(table: Name) =>
    Iterator.from(merged(view.entries(table), written.get(table)) as Iterable<readonly [string, Tables[Name]]>)
  return {
    at: envelope.at,
    actor: envelope.actor,
    tools,
    get: <Name extends TableName>(table: Name, key: string) => {
      const entry = entryOf(table, key)
      if (entry === undefined) return view.get(table, key)
      return entry.live ? ((entry.row ?? undefined) as Tables[Name] | undefined) : undefined
    },
    entries,
    all: <Name extends TableName>(table: Name) => entries(table).map(([, row]) => row),
    size: (table) => view.size(table),
    archived: <Name extends TableName>(table: Name, key: string) => {
      const entry = entryOf(table, key)
      if (entry !== undefined) return (entry.row ?? undefined) as Tables[Name] | undefined
      return view.get(table, key) ?? view.archived(table, key)
    },
    put: (table, key, row) => write({ table, key, row, live: TABLES[table].inView }),
    retire: (table, key, row) => write({ table, key, row, live: false }),
    remove: (table, key) => write({ table, key, row: null, live: false }),
    append: (log) => logs.push(log),
    send: (send) => sends.push(send),
    say: (fact) => facts.push(fact),
    touch: (project) => touched.add(project),
    takeTouched: () => {
      const [first] = touched
      if (first !== undefined) touched.delete(first)
      return first
    },
    outcome: (reply) => ({
      writes: [...written.values()].flatMap((table) => [...table.values()]) as unknown as Write[],
      logs,
      sends,
      facts,
      reply,
    }),
  }
}

/** The view's rows with the draft's in their place. */
function* merged(rows: Iterable<readonly [string, unknown]>, entries: Map<string, Entry> | undefined) {
  for (const pair of rows) if (entries === undefined || !entries.has(pair[0])) yield pair
  for (const entry of entries?.values() ?? []) {
    if (entry.live && entry.row !== null) yield [entry.key, entry.row] as const
  }
}

const EMPTY_INSTANCE: Instance = { frozen: null, fence: 0, change: 0, task: 0 }

/** The one row about the instance itself; a new instance has none yet. */
export function instanceOf(view: View): Instance {
  return view.get('instance', 'instance') ?? EMPTY_INSTANCE
}

/**
 * A golden scenario as people and machines say it: each frame between the coordinator and the agents, in order, what
 * people ask for, and the status whenever it has become another. What differs from run to run is left out or numbered:
 * ids by their first use, times, signatures, hashes. Pings are left out.
 */
import type { Command } from '../../coordinator/domain/events.ts'
import { type Project, placeKey } from '../../coordinator/domain/state.ts'
import { renderStatus, rowsOf, statusOf } from '../../coordinator/domain/status.ts'
import { type Run, play } from './exhaustive.ts'
import { SETTINGS } from './givens.ts'
import type { Scenario } from './scenarios.ts'
import type { Stage } from './script.ts'

type Value = string | number | boolean | null | readonly Value[] | { readonly [key: string]: Value }
type Fields = { readonly [key: string]: Value }

/** Said as `...`: what is long, and says nothing to a reader. */
const LEFT_OUT = new Set(['signature', 'keyId', 'facts', 'sha256', 'outputSha256', 'counter', 'outputBytes'])
/** Instants. */
const TIMES = new Set(['at', 'issuedAt', 'startBy', 'date', 'madeAt', 'offset'])

/** Long, and said again and again. */
const NAMED = new Set(['plan', 'evidence'])

/** Plays a scenario in which nothing fails but what it names, and answers what was said and seen. */
export async function transcriptOf(run: Run, scenario: Scenario): Promise<string> {
  const writer = new Writer()
  const { violations } = await play(run, scenario, null, {
    watch: {
      staged: (stage) => writer.at(stage),
      said: (machine, side, text) => writer.frame(machine.name, side, JSON.parse(text) as Fields),
      seen: {
        asked: (who, command) => writer.asked(who, command),
        refused: (who) => writer.add(`== ${who}: is refused`),
        happened: (what) => writer.add(`-- ${what}`),
      },
    },
  })
  if (violations.length > 0) throw new Error(violations.join('\n'))
  return writer.end()
}

/** Owns the lines of one transcript, and the numbers that ids bear in it. */
class Writer {
  readonly #lines: string[] = []
  readonly #numbers = new Map<string, string>()
  readonly #counts = new Map<string, number>()
  readonly #shown = new Map<string, string>()
  #stage: Stage | null = null

  at(stage: Stage): void {
    this.#stage = stage
  }

  add(line: string): void {
    this.#lines.push(line)
  }

  asked(who: string, command: Command): void {
    this.#statuses()
    const { type, ...rest } = command
    if (command.type === 'request') return this.add(`== ${who}: request ${command.text}`)
    if (command.type === 'decide') return this.add(`== ${who}: ${command.decision} ${command.change}`)
    this.add(`== ${who}: ${type} ${this.#fields(rest)}`)
  }

  frame(machine: string, side: 'agent' | 'coordinator', { t, records, ...rest }: Fields): void {
    this.#statuses()
    if (t === 'ping' || t === 'pong') return
    this.add(
      `${short(machine)} ${side === 'agent' ? '->' : '<-'} ${this.#value('t', t ?? '')} ${this.#fields(rest)}`.trimEnd(),
    )
    for (const record of (records ?? []) as readonly Fields[]) this.add(`     ${this.#record(record)}`)
  }

  end(): string {
    this.#statuses()
    return `${this.#lines.join('\n')}\n`
  }

  #record({ n, type, step, text, ...more }: Fields): string {
    const head = [n, type, step].map((value) => (value === undefined ? '' : this.#value('', value)))
    const said = [...head, text === undefined ? '' : JSON.stringify(text), this.#fields(more)]
    return said.filter((part) => part !== '').join(' ')
  }

  #fields(fields: Fields): string {
    return Object.entries(fields)
      .flatMap(([key, value]) => {
        const text = this.#value(key, value)
        return text === '' ? [] : [`${key}:${text}`]
      })
      .join(' ')
  }

  /** Empty for what is left out. */
  #value(key: string, value: Value): string {
    if (LEFT_OUT.has(key) || TIMES.has(key) || value === null) return ''
    if (key === 'payload' && typeof value === 'string')
      return `(${this.#fields(JSON.parse(Buffer.from(value, 'base64').toString()) as Fields)})`
    if (typeof value === 'string') return this.#text(key, value)
    if (typeof value !== 'object') return String(value)
    if (Array.isArray(value))
      return value.length === 0 ? '' : `[${value.map((one: Value) => this.#value('', one)).join(', ')}]`
    const inner = this.#fields(value as Fields)
    if (inner === '') return ''
    return NAMED.has(key) ? this.#named(key, inner) : `(${inner})`
  }

  /** Whole where it stands first, by its number from then on. */
  #named(key: string, inner: string): string {
    const known = this.#numbers.get(inner)
    return known ?? `${this.#number(key, inner)}(${inner})`
  }

  #number(key: string, text: string): string {
    const count = (this.#counts.get(key) ?? 0) + 1
    this.#counts.set(key, count)
    this.#numbers.set(text, `${key}-${count}`)
    return `${key}-${count}`
  }

  #text(key: string, text: string): string {
    if (!/^[0-9a-f]{32}([0-9a-f]{32})?$/.test(text)) return /[\s"]/.test(text) ? JSON.stringify(text) : text
    return this.#numbers.get(text) ?? this.#number(key, text)
  }

  /** The status of each project that has become another than when it was last shown. */
  #statuses(): void {
    const stage = this.#stage
    if (stage === null) return
    for (const [id, row] of stage.coordinator.disk.tables.get('projects') ?? []) {
      const project = JSON.parse(row.doc) as Project
      if (project.change === null) continue
      const key = JSON.stringify([
        project.state,
        project.outcome,
        project.counts,
        project.stop?.kind,
        project.stop?.code,
      ])
      if (this.#shown.get(id) === key) continue
      this.#shown.set(id, key)
      for (const line of statusText(stage, project).split('\n')) this.add(`  | ${line}`.trimEnd())
    }
  }
}

/** Without the cluster, which is the same for all. */
function short(machine: string): string {
  return machine.replace(/^.*-(\w+-[0-9]+)$/, '$1')
}

function statusText({ coordinator }: Stage, project: Project): string {
  const view = coordinator.view()
  const rowsOnDisk = <Name extends 'targets' | 'bags'>(table: Name, count: number) =>
    Array.from({ length: count }, (_, index) => coordinator.onDisk(table, placeKey(project.id, index))).flatMap(
      (row) => row ?? [],
    )
  const rows =
    view?.get('projects', project.id) === undefined
      ? {
          project,
          targets: rowsOnDisk('targets', project.targets),
          bags: rowsOnDisk('bags', project.bags),
          holder: null,
        }
      : rowsOf(view, project)
  return renderStatus(statusOf(rows, SETTINGS.instance), coordinator.now())
    .replaceAll(/ for [0-9][0-9dhms ]*/g, ' for TIME')
    .replaceAll(/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]+( UTC)?/g, 'TIME')
}

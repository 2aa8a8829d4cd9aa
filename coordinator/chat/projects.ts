/**
 * Follows the feeds of all instances and says in Slack what happens: one living message for each project, new posts
 * for what needs a person and for the end, and in the log channel one thread for each machine. What follows from a
 * row of the feed is written to the ledger together with the row's number, so each row is told once, whatever is
 * killed when. Nothing here is waited for by a run.
 */
import { RefusedError } from '../../protocol/errors.ts'
import type { Fact, FeedRow } from '../../protocol/feed.ts'
import type { ProjectView } from '../../protocol/http.ts'
import { isNotFound } from '../client/failure.ts'
import { followFeed } from '../client/feed-client.ts'
import { type Timers, waitUnless } from '../client/target.ts'
import type { Ledger, Log } from '../ports.ts'
import { type Instance, whyLost } from './instances.ts'
import { cutEnd, escaped } from './markup.ts'
import type { Entry, Messages } from './messages.ts'
import { type Offers, closedOffer } from './offers.ts'
import type { ChatConfig, ChatTimes, Place } from './ports.ts'
import { type Run, failureText, finishedText, machineOf, runSteps, runTitle, troubleText } from './texts.ts'

/** A project and where it is told; `user` is who asked for it in chat. */
export type Told = Place & {
  readonly instance: string
  readonly change: string
  readonly user: string | null
  readonly offer: string | null
  readonly isOpen: boolean
}
export type ProjectsPorts = {
  readonly config: ChatConfig
  readonly instances: readonly Instance[]
  readonly ledger: Ledger
  readonly messages: Messages
  readonly offers: Offers
  readonly timers: Timers
  readonly log: Log
  readonly times: ChatTimes
  readonly signal: AbortSignal
  readonly onReach: (instance: string, problem: string | null) => void
}
export type Projects = {
  readonly start: () => Promise<void>
  readonly touch: (instance: string, change: string) => void
}

type Position = { readonly epoch: string; readonly rev: number }

const ENDS: Readonly<Record<string, string>> = {
  orderSucceeded: 'succeeded',
  orderFailed: 'failed',
  orderUnknown: 'unknown',
  orderVoided: 'not begun',
}

export const toldKey = (instance: string, change: string) => `project/${instance}/${change}`
export const livingKey = (instance: string, change: string) => `living/${instance}/${change}`
const runKey = (instance: string, order: string) => `run/${instance}/${order}`
const ownKey = (instance: string, request: string) => `own/${instance}/${request}`
const feedKey = (instance: string) => `feed/${instance}`

export function livingText(view: ProjectView): string {
  return cutEnd(escaped(view.text))
}

export function createProjects(ports: ProjectsPorts): Projects {
  const tellers = ports.instances.map((instance) => new Teller(ports, instance))
  return {
    start: async () => {
      await Promise.all(tellers.flatMap((teller) => [teller.follow(), teller.refresh()]))
    },
    touch: (instance, change) => tellers.find((teller) => teller.name === instance)?.touch(change),
  }
}

/** Tells of one instance. */
class Teller {
  readonly name: string
  readonly #ports: ProjectsPorts
  readonly #instance: Instance
  readonly #dirty = new Set<string>()
  #wake = () => {}
  #self = ''
  #position: Position | null

  constructor(ports: ProjectsPorts, instance: Instance) {
    this.#ports = ports
    this.#instance = instance
    this.name = instance.name
    ports.signal.addEventListener('abort', () => this.#wake())
    this.#position = (ports.ledger.get(feedKey(instance.name)) as Position | undefined) ?? null
  }

  touch(change: string): void {
    this.#dirty.add(change)
    this.#wake()
  }

  /** Until the end; an instance out of reach, or one that refuses the bot, is tried again and again. */
  async follow(): Promise<void> {
    const { signal, timers, times, log, onReach } = this.#ports
    this.#touchAll()
    while (!signal.aborted) {
      try {
        const who = await this.#instance.bot().call('who')
        this.#self = who.name
        onReach(this.name, null)
        const from = this.#position ?? { epoch: who.epoch, rev: who.rev }
        if (this.#position === null) this.#put([], from)
        await this.#followFrom(from)
      } catch (error) {
        // Told once as a trouble; each further try is for who looks closely.
        log.debug({ err: error, instance: this.name }, 'an instance is not followed')
        onReach(this.name, whyLost(error))
        await waitUnless(timers, times.reconnect * 5, signal)
      }
    }
  }

  async #followFrom(from: Position): Promise<void> {
    const { timers, signal, log, onReach } = this.#ports
    let epoch = from.epoch
    await followFeed(
      timers,
      this.#instance.target(),
      { epoch, since: from.rev },
      {
        onHello: (hello) => {
          onReach(this.name, null)
          epoch = hello.epoch
          // A restored database: its rows have other numbers, and what was told before stays told.
          if (hello.epochWas !== null) this.#put([], { epoch, rev: hello.rev })
          this.#touchAll()
        },
        onRow: (row) => this.#onRow(row, epoch),
        onGap: (first, last) => {
          log.warn({ instance: this.name, first, last }, 'rows of the feed are gone')
          this.#touchAll()
        },
        onLost: (why) => onReach(this.name, why),
      },
      signal,
    )
  }

  async #onRow(row: FeedRow, epoch: string): Promise<void> {
    const entries: Entry[] = []
    for (const fact of row.facts) {
      if (fact.fact === 'requestMade' && fact.request !== undefined && row.actor.endsWith(` via ${this.#self}`))
        entries.push([ownKey(this.name, fact.request), { at: row.at }])
      if (fact.fact === 'frozen' || fact.fact === 'unfrozen') this.#touchAll()
    }
    const byChange = Map.groupBy(row.facts, (fact) => fact.change ?? '')
    byChange.delete('')
    for (const [change, facts] of byChange) entries.push(...(await this.#ofChange(change, facts, row)))
    if (this.#ports.signal.aborted) return
    const position = { epoch, rev: row.rev }
    if (entries.length > 0) this.#put(entries, position)
    for (const change of byChange.keys()) this.touch(change)
  }

  #put(entries: readonly Entry[], position: Position): void {
    this.#position = position
    this.#ports.messages.put([...entries, [feedKey(this.name), position]])
  }

  async #ofChange(change: string, facts: readonly Fact[], row: FeedRow): Promise<Entry[]> {
    const known = this.#ports.ledger.get(toldKey(this.name, change)) as Told | undefined
    const entries: Entry[] = []
    const told = known ?? this.#adopt(change, facts, entries)
    const matters = facts.some(
      (fact) => fact.fact in ENDS || ['stopSet', 'projectClosed', 'changeApproved'].includes(fact.fact),
    )
    const status = matters ? await this.#statusOf(change) : null
    for (const fact of facts) if (fact.fact === 'reportMade') entries.push(...this.#ofReport(change, fact))
    for (const [order, ofOrder] of Map.groupBy(facts, (fact) => fact.order ?? ''))
      if (order !== '') entries.push(...this.#ofOrder(change, order, ofOrder, row, status))
    if (told === undefined) return entries
    entries.push(...this.#troubles(told, facts, row, status))
    if (status !== null) entries.push(...this.#seen(told, status))
    return entries
  }

  /** What the status alone tells: the living message, whether the buttons must go, and the end. */
  #seen(told: Told, view: ProjectView): Entry[] {
    const { messages, offers, config } = this.#ports
    const { change } = told
    const entries = messages.changed(livingKey(this.name, change), { text: livingText(view) })
    const { state, approvedBy, closedAt } = view.status
    if (told.offer !== null && state !== 'pending') {
      const user = Object.entries(config.people).find(([, person]) => person === approvedBy)?.[0]
      const who = user === undefined ? escaped(approvedBy ?? '') : `<@${user}>`
      const outcome = approvedBy === null ? 'Not to be approved any more' : `Approved by ${who}`
      entries.push(...closedOffer(offers, told.offer, outcome))
    }
    if (closedAt === null) return entries
    const text = mentioned(told, finishedText(view.status))
    entries.push(...messages.made(`finished/${this.name}/${change}`, told, { text }))
    entries.push([toldKey(this.name, change), { ...told, isOpen: false }])
    return entries
  }

  /** A change that was not asked for through this bot is told in the log channel. */
  #adopt(change: string, facts: readonly Fact[], entries: Entry[]): Told | undefined {
    const { config, ledger, messages } = this.#ports
    const raised = facts.find((fact) => fact.fact === 'changeRaised')
    if (raised?.request === undefined || config.logChannel === null) return undefined
    if (ledger.get(ownKey(this.name, raised.request)) !== undefined) return undefined
    const place = { channel: config.logChannel, thread: null }
    const told: Told = { ...place, instance: this.name, change, user: null, offer: null, isOpen: true }
    entries.push(
      [toldKey(this.name, change), told],
      ...messages.made(livingKey(this.name, change), place, { text: `\`${change}\` ${escaped(raised.text ?? '')}` }),
    )
    return told
  }

  /** The thread of a machine in the log channel: its head, its steps, and at the end what failed and the whole log. */
  #ofOrder(change: string, order: string, facts: readonly Fact[], row: FeedRow, status: ProjectView | null): Entry[] {
    const { config, ledger, messages } = this.#ports
    const channel = config.logChannel
    if (channel === null) return []
    const before = ledger.get(runKey(this.name, order)) as Run | undefined
    const run = runAfter(before, { instance: this.name, change, order, facts, at: row.at })
    if (run === null) return []
    const head = `thread/${this.name}/${change}/${run.machine}`
    const steps = `steps/${this.name}/${order}`
    const place = { channel, thread: null }
    const entries: Entry[] = [
      [runKey(this.name, order), run],
      ...written(messages, head, place, runTitle(run)),
      ...written(messages, steps, { ...place, parent: head }, runSteps(run)),
    ]
    const end = facts.find((fact) => fact.fact in ENDS)
    if (end === undefined) return entries
    if (end.fact !== 'orderSucceeded') {
      const text = failureText(
        machineOf(status?.status ?? null, order),
        end.reason ?? ENDS[end.fact] ?? '',
        end.cause ?? null,
      )
      entries.push(...messages.made(`failed/${this.name}/${order}/${row.rev}`, { ...place, parent: head }, { text }))
    }
    const title = `${change} ${run.machine} ${order.slice(0, 8)}.log`
    const file = { kind: 'log' as const, instance: this.name, of: order, title }
    entries.push(
      ...messages.made(`file/${this.name}/${order}/${row.rev}`, { ...place, parent: head, file }, { text: title }),
    )
    return entries
  }

  /** In the thread of the machine: what the health report found, and the whole of it as a file. */
  #ofReport(change: string, { machine = '', order = '', reason: report = '', text = '' }: Fact): Entry[] {
    const { config, ledger, messages } = this.#ports
    // Without a run that was told of there is no thread.
    if (config.logChannel === null || ledger.get(runKey(this.name, order)) === undefined) return []
    const at = { channel: config.logChannel, thread: null, parent: `thread/${this.name}/${change}/${machine}` }
    const file = {
      kind: 'report' as const,
      instance: this.name,
      of: `${machine} ${report}`,
      title: `${machine} report.txt`,
    }
    const key = `report/${this.name}/${report}`
    return [
      ...messages.made(key, at, { text: escaped(`Health report: ${text}`) }),
      ...messages.made(`${key}/file`, { ...at, file }, { text: file.title }),
    ]
  }

  /** What needs a person is a new post, since an edit notifies nobody: one for a row, however much stands in it. */
  #troubles(told: Told, facts: readonly Fact[], row: FeedRow, status: ProjectView | null): Entry[] {
    const hold = facts.findLast((fact) => fact.fact === 'stopSet' && fact.state === 'hold')
    const failed = facts.filter(
      (fact) => fact.fact === 'orderFailed' || fact.fact === 'orderUnknown' || fact.fact === 'driftFound',
    )
    if (hold === undefined && failed.length === 0) return []
    const lines = failed.map((fact) => {
      const word = fact.fact === 'driftFound' ? 'drifted' : (ENDS[fact.fact] ?? '')
      return `${fact.machine ?? 'a machine'} ${word}: ${fact.reason ?? ''}${fact.cause === undefined ? '' : ` (${fact.cause})`}`
    })
    if (hold !== undefined) lines.push(`Held: ${hold.reason ?? ''}`)
    const lift = hold?.lift ?? status?.status.stop?.lift ?? null
    const text = mentioned(told, troubleText(told.change, lines, lift))
    return this.#ports.messages.made(`trouble/${this.name}/${row.rev}/${told.change}`, told, { text })
  }

  /** Waits for an instance out of reach: the row is told when it can be told whole. */
  async #statusOf(change: string): Promise<ProjectView | null> {
    const { signal, timers, times } = this.#ports
    while (!signal.aborted) {
      try {
        return await this.#instance.bot().call('project', { params: { change } })
      } catch (error) {
        if (isNotFound(error)) return null
        await waitUnless(timers, times.reconnect, signal)
      }
    }
    return null
  }

  #touchAll(): void {
    for (const { doc } of this.#ports.ledger.list(`project/${this.name}/`)) {
      const told = doc as Told
      if (told.isOpen) this.touch(told.change)
    }
  }

  /** Brings the living messages up to date, all that changed in a while at once. */
  async refresh(): Promise<void> {
    const { signal, timers, times, log } = this.#ports
    while (!signal.aborted) {
      for (const change of [...this.#dirty]) {
        this.#dirty.delete(change)
        try {
          await this.#refreshOne(change)
        } catch (error) {
          log.debug({ err: error, change, instance: this.name }, 'a living message was not refreshed')
          if (!(error instanceof RefusedError)) this.#dirty.add(change)
        }
      }
      await waitUnless(timers, times.editGap / 2, signal)
      if (this.#dirty.size > 0 || signal.aborted) continue
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }

  async #refreshOne(change: string): Promise<void> {
    const { ledger, messages } = this.#ports
    const told = ledger.get(toldKey(this.name, change)) as Told | undefined
    if (told === undefined || !told.isOpen) return
    const view = await this.#instance.bot().call('project', { params: { change } })
    const now = ledger.get(toldKey(this.name, change)) as Told | undefined
    // The end was told meanwhile, with a status that is newer than this one.
    if (now?.isOpen === true) messages.put(this.#seen(now, view))
  }
}

function written(messages: Messages, key: string, at: Place & { readonly parent?: string }, text: string): Entry[] {
  const entries = messages.made(key, at, { text })
  return entries.length > 0 ? entries : messages.changed(key, { text })
}

function mentioned(told: Told, text: string): string {
  return told.user === null ? text : `<@${told.user}> ${text}`
}

/** The run after these facts; null when it is none that was granted. */
function runAfter(
  before: Run | undefined,
  news: {
    readonly instance: string
    readonly change: string
    readonly order: string
    readonly facts: readonly Fact[]
    readonly at: number
  },
): Run | null {
  const { instance, change, order, facts, at } = news
  const granted = facts.find((fact) => fact.fact === 'orderGranted')
  const begun: Run | undefined =
    granted === undefined
      ? before
      : { instance, change, order, machine: granted.machine ?? '', grantedAt: at, steps: [], end: null }
  if (begun === undefined) return null
  const steps = facts.flatMap((fact) => (fact.fact === 'stepStarted' ? [[fact.step ?? '', at] as const] : []))
  const end = facts.find((fact) => fact.fact in ENDS)
  const isHeard = facts.some((fact) => fact.fact === 'orderHeard')
  if (granted === undefined && steps.length === 0 && end === undefined && !isHeard) return null
  return {
    ...begun,
    steps: [...begun.steps, ...steps],
    end:
      end === undefined ? (isHeard ? null : begun.end) : { state: ENDS[end.fact] ?? '', reason: end.reason ?? '', at },
  }
}

/**
 * What is to stand in Slack, kept in the ledger, and the worker that brings it there. A message is made once by its
 * key and may be changed as often as wanted; the worker posts what is not there yet, in the order in which it was
 * made, and edits what stands there otherwise. The invariants: no message is posted twice and none is forgotten,
 * whatever is killed when; and nobody waits for Slack.
 */
import type { Ledger, Clock, Log } from '../ports.ts'
import { type ChatTimes, type Content, type Place, type Slack, SlackError, type SlackProblem } from './ports.ts'

/** Where a file's bytes come from when its turn has come. */
export type FileSource = {
  readonly kind: 'log' | 'plan' | 'report'
  readonly instance: string
  /** An order, a change, or a machine and the id of its report with a space between. */
  readonly of: string
}
export type Message = {
  readonly channel: string
  readonly thread: string | null
  /** The key of the message in whose thread it stands; wins over `thread`. */
  readonly parent: string | null
  readonly content: Content
  /** A file instead of a text. */
  readonly file: (FileSource & { readonly title: string }) | null
  /** Its place among those that wait. */
  readonly seq: number
  readonly madeAt: number
  readonly ts: string | null
  /** What Slack shows; differs from `content` while an edit is due. */
  readonly shown: string | null
  /** Why it will never be there. */
  readonly lost: string | null
}
export type Entry = readonly [key: string, doc: object | null]
type Draft = Place & { readonly parent?: string; readonly file?: Message['file'] }

export type Messages = {
  /** The entry that makes a message, for a put together with others; none when there is one with this key. */
  readonly made: (key: string, at: Draft, content: Content) => Entry[]
  /** The entry that changes what a message is to say; none when there is no such message or nothing changes. */
  readonly changed: (key: string, content: Content) => Entry[]
  readonly get: (key: string) => Message | null
  /** Writes entries, all or nothing, and sees to those that are messages. */
  readonly put: (entries: readonly Entry[]) => void
  readonly start: () => void
  readonly stop: () => Promise<void>
  /** Resolves when nothing is due, for tests and demonstrations. */
  readonly settled: () => Promise<void>
  /** How many wait. */
  readonly waiting: () => number
}

export type MessagesPorts = {
  readonly ledger: Ledger
  readonly slack: Slack
  readonly clock: Clock
  readonly log: Log
  readonly times: ChatTimes
  /** Null when there is nothing to show (an empty log). */
  readonly bytesOf: (source: FileSource) => Promise<Buffer | null>
  readonly onProblem: (problem: SlackProblem, what: string) => void
  readonly onDone: () => void
}

const PREFIX = 'message/'
/** Posts that may follow each other at once before the gap counts. */
const BURST = 4

export function createMessages(ports: MessagesPorts): Messages {
  return new Worker(ports)
}

class Worker implements Messages {
  readonly #ports: MessagesPorts
  /** Messages that are to be posted or edited, by key. */
  readonly #due = new Map<string, Message>()
  /** Keys whose post may have happened: looked for before they are posted. */
  readonly #unsure = new Set<string>()
  readonly #editedAt = new Map<string, number>()
  readonly #credit = new Map<string, { left: number; at: number }>()
  readonly #busy = new Map<string, Promise<void>>()
  readonly #waiters: (() => void)[] = []
  #seq = 0
  #pausedUntil = 0
  #isOn = false
  #cancelTimer = () => {}

  constructor(ports: MessagesPorts) {
    this.#ports = ports
    for (const { key, doc } of ports.ledger.list(PREFIX)) {
      const message = doc as Message
      this.#seq = Math.max(this.#seq, message.seq)
      if (!isDue(message)) continue
      this.#due.set(key.slice(PREFIX.length), message)
      // Who made it may have been killed between the post and its note here.
      if (message.ts === null) this.#unsure.add(key.slice(PREFIX.length))
    }
  }

  made(key: string, at: Draft, content: Content): Entry[] {
    if (this.get(key) !== null) return []
    this.#seq += 1
    const message: Message = {
      channel: at.channel,
      thread: at.thread,
      parent: at.parent ?? null,
      content,
      file: at.file ?? null,
      seq: this.#seq,
      madeAt: this.#ports.clock.wallNow(),
      ts: null,
      shown: null,
      lost: null,
    }
    return [[PREFIX + key, message]]
  }

  changed(key: string, content: Content): Entry[] {
    const message = this.get(key)
    if (message === null || textOf(message.content) === textOf(content)) return []
    return [[PREFIX + key, { ...message, content }]]
  }

  get(key: string): Message | null {
    return this.#due.get(key) ?? (this.#ports.ledger.get(PREFIX + key) as Message | undefined) ?? null
  }

  put(entries: readonly Entry[]): void {
    if (entries.length === 0) return
    this.#ports.ledger.put(entries)
    for (const [key, doc] of entries) if (key.startsWith(PREFIX)) this.#note(key.slice(PREFIX.length), doc as Message)
    this.#look()
  }

  start(): void {
    this.#isOn = true
    this.#look()
  }

  async stop(): Promise<void> {
    this.#isOn = false
    this.#cancelTimer()
    await Promise.all(this.#busy.values())
  }

  waiting(): number {
    return this.#due.size
  }

  settled(): Promise<void> {
    if (this.#due.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#waiters.push(resolve))
  }

  #note(key: string, message: Message | null): void {
    if (message !== null && isDue(message)) this.#due.set(key, message)
    else this.#due.delete(key)
    if (this.#due.size === 0) for (const wake of this.#waiters.splice(0)) wake()
  }

  #save(key: string, change: Partial<Message>): void {
    const before = this.get(key)
    if (before === null) return
    this.put([[PREFIX + key, { ...before, ...change }]])
  }

  /** Sees to each channel that has nothing in flight; sets the timer for what must wait. */
  #look(): void {
    if (!this.#isOn) return
    this.#cancelTimer()
    const now = this.#now()
    let next = Number.POSITIVE_INFINITY
    for (const [channel, keys] of this.#byChannel()) {
      if (this.#busy.has(channel)) continue
      const { key, at } = this.#nextOf(channel, keys)
      if (key !== null && at <= now) this.#begin(channel, key)
      else next = Math.min(next, at)
    }
    if (Number.isFinite(next)) this.#cancelTimer = this.#ports.clock.after(Math.max(1, next - now), () => this.#look())
  }

  #now(): number {
    return this.#ports.clock.monotonicNow()
  }

  #byChannel(): Map<string, string[]> {
    return Map.groupBy(this.#due.keys(), (key) => this.#due.get(key)?.channel ?? '')
  }

  /** First what is not there yet, in its order; then edits, each as often as Slack likes. */
  #nextOf(channel: string, keys: readonly string[]): { readonly key: string | null; readonly at: number } {
    const { postGap, editGap } = this.#ports.times
    const posts = keys
      .filter((key) => this.#due.get(key)?.ts === null)
      .toSorted((a, b) => (this.#due.get(a)?.seq ?? 0) - (this.#due.get(b)?.seq ?? 0))
    const [first] = posts
    if (first !== undefined) {
      const credit = this.#credit.get(channel)
      const ready = credit === undefined || credit.left > 0 ? 0 : credit.at + postGap
      return { key: first, at: Math.max(ready, this.#pausedUntil) }
    }
    const edits = keys
      .map((key) => ({ key, at: Math.max(this.#pausedUntil, (this.#editedAt.get(key) ?? -editGap) + editGap) }))
      .toSorted((a, b) => a.at - b.at)
    return edits[0] ?? { key: null, at: Number.POSITIVE_INFINITY }
  }

  #begin(channel: string, key: string): void {
    const done = this.#bring(key)
      .catch((error: unknown) => this.#ports.log.error({ err: error, key }, 'a message is stuck until the next start'))
      .finally(() => {
        this.#busy.delete(channel)
        this.#look()
      })
    this.#busy.set(channel, done)
  }

  async #bring(key: string): Promise<void> {
    const message = this.#due.get(key)
    if (message === undefined) return
    try {
      if (message.ts === null) await this.#postOnce(key, message)
      else await this.#edit(key, message, message.ts)
      this.#ports.onDone()
    } catch (error) {
      // After the end nothing is written any more; the next start sees what is due.
      if (this.#isOn) this.#failed(key, message, error)
    }
  }

  async #postOnce(key: string, message: Message): Promise<void> {
    const { slack, bytesOf } = this.#ports
    const place = this.#placeOf(message)
    if (place === null) {
      this.#save(key, { lost: 'the message in whose thread it belongs is not there' })
      return
    }
    if (this.#unsure.has(key)) {
      const ts = await this.#find(key, message, place)
      this.#unsure.delete(key)
      if (ts !== null) {
        // What it says there is not known: it is edited to be sure, and an edit to the same is nothing.
        this.#save(key, { ts, shown: message.file === null ? null : textOf(message.content) })
        return
      }
    }
    this.#spend(message.channel)
    if (message.file === null) {
      const ts = await slack.post(place, message.content, key)
      this.#editedAt.set(key, this.#now())
      this.#save(key, { ts, shown: textOf(message.content) })
      return
    }
    const bytes = await bytesOf(message.file)
    if (bytes === null || bytes.length === 0) this.#save(key, { lost: 'it is empty' })
    else {
      await slack.upload(place, { title: message.file.title, bytes })
      this.#save(key, { ts: 'file', shown: textOf(message.content) })
    }
  }

  async #find(key: string, message: Message, place: Place): Promise<string | null> {
    const { slack, log } = this.#ports
    try {
      return await slack.find(place, { key, file: message.file?.title ?? null }, message.madeAt)
    } catch (error) {
      // A bot that may not read the channel can't know: to say it twice is better than never.
      if (!(error instanceof SlackError) || error.problem.kind !== 'refused') throw error
      log.warn({ err: error, key }, 'whether a message is there can not be seen; it is posted')
      return null
    }
  }

  async #edit(key: string, message: Message, ts: string): Promise<void> {
    this.#editedAt.set(key, this.#now())
    await this.#ports.slack.update(message.channel, ts, message.content)
    this.#save(key, { shown: textOf(message.content) })
  }

  #placeOf(message: Message): Place | null {
    if (message.parent === null) return message
    const ts = this.get(message.parent)?.ts ?? null
    return ts === null ? null : { channel: message.channel, thread: ts }
  }

  #spend(channel: string): void {
    const now = this.#now()
    const before = this.#credit.get(channel) ?? { left: BURST, at: now }
    const regained = Math.floor((now - before.at) / Math.max(1, this.#ports.times.postGap))
    const left = Math.min(BURST, before.left + regained)
    this.#credit.set(channel, { left: Math.max(0, left - 1), at: now })
  }

  #failed(key: string, message: Message, error: unknown): void {
    const { log, times, onProblem } = this.#ports
    // What is no answer of Slack (an instance out of reach while its log was read) changed nothing in Slack.
    const problem: SlackProblem = error instanceof SlackError ? error.problem : { kind: 'later', afterMs: times.unsure }
    log.warn({ err: error, key, problem: problem.kind }, 'a message was not brought to Slack')
    onProblem(problem, key)
    if (problem.kind === 'later') this.#pause(problem.afterMs)
    if (problem.kind === 'revoked') this.#pause(times.revoked)
    if (problem.kind === 'unsure') {
      if (message.ts === null) this.#unsure.add(key)
      this.#pause(times.unsure)
    }
    if (problem.kind === 'refused') this.#giveUp(key, message, problem.code)
  }

  #pause(forMs: number): void {
    this.#pausedUntil = Math.max(this.#pausedUntil, this.#now() + forMs)
  }

  #giveUp(key: string, message: Message, reason: string): void {
    const isTooMuch = ['invalid_blocks', 'msg_blocks_too_long', 'msg_too_long'].includes(reason)
    if (isTooMuch && (message.content.blocks ?? null) !== null) {
      this.#save(key, { content: { text: message.content.text.slice(0, 3000) } })
      return
    }
    if (message.ts === null) this.#save(key, { lost: reason })
    else this.#save(key, { shown: textOf(message.content) })
  }
}

function isDue(message: Message): boolean {
  return message.lost === null && (message.ts === null || message.shown !== textOf(message.content))
}

function textOf(content: Content): string {
  return JSON.stringify([content.text, content.blocks ?? null])
}

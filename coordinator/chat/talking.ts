/**
 * One talk as the functions of its commands see it: what it is, and how it says things once. talks.ts makes it, and
 * may make it again after a restart.
 */
import type { Timers } from '../client/target.ts'
import type { Ledger, Log } from '../ports.ts'
import type { Instance } from './instances.ts'
import { cutEnd } from './markup.ts'
import type { Entry, Message, Messages } from './messages.ts'
import type { ChatConfig, ChatTimes, Content, Place } from './ports.ts'

export type Talk = Place & {
  readonly id: string
  readonly user: string
  readonly person: string | null
  readonly text: string
  readonly at: number
  /** `asking`: it waits for a click. */
  readonly state: 'open' | 'asking' | 'done'
  readonly confirmed: boolean
  /** Set before an instance was asked for what must not be done twice. */
  readonly called: boolean
  readonly instance: string | null
}

export type TalksPorts = {
  readonly config: ChatConfig
  readonly instances: readonly Instance[]
  readonly ledger: Ledger
  readonly messages: Messages
  readonly timers: Timers
  readonly log: Log
  readonly times: ChatTimes
  readonly now: () => number
  readonly newId: () => string
  readonly sha256: (text: string) => string
  readonly signal: AbortSignal
  /** A change was raised here: what happened to it meanwhile is to be looked at. */
  readonly onRaised: (told: { readonly instance: string; readonly change: string }) => void
}

export const talkKey = (id: string) => `talk/${id}`

export class Talking {
  readonly ports: TalksPorts
  readonly person: string
  talk: Talk

  constructor(ports: TalksPorts, talk: Talk, person: string) {
    this.ports = ports
    this.talk = talk
    this.person = person
  }

  keyOf(name: string): string {
    return `talk/${this.talk.id}/${name}`
  }

  /** Says something once; `name` tells it from what else this talk says. */
  say(name: string, content: Content | string, file: Message['file'] = null): void {
    this.put(this.saying(name, content, file))
  }

  saying(name: string, content: Content | string, file: Message['file'] = null): Entry[] {
    const said = typeof content === 'string' ? { text: cutEnd(content, 39_000) } : content
    const at = { channel: this.talk.channel, thread: this.talk.thread }
    return this.ports.messages.made(this.keyOf(name), file === null ? at : { ...at, file }, said)
  }

  put(entries: readonly Entry[], change: Partial<Talk> = {}): void {
    this.talk = { ...this.talk, ...change }
    this.ports.messages.put([...entries, [talkKey(this.talk.id), this.talk]])
  }

  /** A key for what this talk asks of an instance: asked again, it is the same. */
  requestKey(purpose: string): string {
    return this.ports.sha256(`${this.talk.id} ${purpose}`).slice(0, 32)
  }

  instancesMeant(name: string | null): readonly Instance[] {
    return name === null ? this.ports.instances : this.ports.instances.filter((instance) => instance.name === name)
  }
}

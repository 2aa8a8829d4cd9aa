/**
 * What the bot needs from the world, and what Slack is to it. `createChat(ports)` is called by the composition and by
 * the tests. The bot is a client of every instance of its list, its own too: it decides nothing that they decide.
 */
import type { Ledger, Clock, Log, Random } from '../ports.ts'

export type ChatConfig = {
  /** How people call it. */
  readonly name: string
  readonly apiUrl: string
  readonly appTokenFile: string
  readonly botTokenFile: string
  /** The channel with a thread for each machine, null for none. */
  readonly logChannel: string | null
  /** A request of more machines than this is confirmed with a button before it is raised. */
  readonly confirmAbove: number
  /** Persons of smith by the id of their Slack user. */
  readonly people: Readonly<Record<string, string>>
  readonly instances: readonly InstanceConfig[]
}
export type InstanceConfig = {
  readonly name: string
  readonly host: string
  readonly port: number
  readonly pin: string
  readonly tokenFile: string
}

export type ChatPorts = {
  readonly config: ChatConfig
  readonly ledger: Ledger
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly sha256: (text: string) => string
  /** Reads a secret's file; throws when it can't be read. */
  readonly readSecret: (path: string) => string
  readonly times?: Partial<ChatTimes>
}

/** Milliseconds. The limits of Slack: about one post a second and channel with short bursts, 50 edits a minute. */
export type ChatTimes = {
  readonly postGap: number
  readonly editGap: number
  /** After a failure whose answer was lost, before looking whether the message is there after all. */
  readonly unsure: number
  readonly reconnect: number
  readonly reconnectMax: number
  readonly revoked: number
  /** For one call of Slack or of an instance. */
  readonly call: number
}
export const CHAT_TIMES: ChatTimes = {
  postGap: 1000,
  editGap: 3000,
  unsure: 3000,
  reconnect: 1000,
  reconnectMax: 30_000,
  revoked: 60_000,
  call: 10_000,
}

export type Block = Readonly<Record<string, unknown>>
export type Content = { readonly text: string; readonly blocks?: readonly Block[] | null }
export type Place = { readonly channel: string; readonly thread: string | null }

/** What a call of Slack came to when it did not succeed. */
export type SlackProblem =
  /** Not done; may be asked again after this time. */
  | { readonly kind: 'later'; readonly afterMs: number }
  /** It may have been done or not: its answer was lost. */
  | { readonly kind: 'unsure' }
  /** The token is no good any more. */
  | { readonly kind: 'revoked' }
  /** Not done, and would not be if it were asked again. */
  | { readonly kind: 'refused'; readonly code: string }

export class SlackError extends Error {
  readonly problem: SlackProblem
  constructor(problem: SlackProblem, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'SlackError'
    this.problem = problem
  }
}

export type Self = { readonly user: string; readonly bot: string; readonly team: string }

/** Slack's Web API as far as it is used. Everything rejects with a SlackError. */
export type Slack = {
  readonly whoAmI: () => Promise<Self>
  /** The answer is the message's `ts`, which names it in its channel. */
  readonly post: (place: Place, content: Content, key: string) => Promise<string>
  readonly update: (channel: string, ts: string, content: Content) => Promise<void>
  readonly upload: (place: Place, file: { readonly title: string; readonly bytes: Buffer }) => Promise<void>
  /** The message that bears the key (or the file with the title), posted since then; null when there is none. */
  readonly find: (
    place: Place,
    wanted: { readonly key: string; readonly file: string | null },
    since: number,
  ) => Promise<string | null>
  /** An answer to a click that only the person sees; best effort. */
  readonly whisper: (responseUrl: string, text: string) => Promise<void>
}

/** An envelope that Slack delivered, before anything is known about its body. */
export type Envelope = { readonly type: string; readonly body: unknown }

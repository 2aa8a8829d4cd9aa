/**
 * What goes into a step and what comes out of it. Time is in the event's envelope (`at`), ids and hashes come from
 * the tools, so the same state and event always give the same outcome.
 */
import type { AgentFrame, CoordinatorFrame, Facts } from '../../protocol/agent.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { Fact } from '../../protocol/feed.ts'
import type { GrantPayload, RunRecord } from '../../protocol/files.ts'
import type { Role } from '../../protocol/http.ts'
import type { Known } from './known.ts'
import type { Actor, ChangeCall, Instant, RemoteChange, Span, Write } from './state.ts'

export type { ChangeCall } from './state.ts'

/** The frames of an agent that the core decides about; pings and proofs stay with the session. */
export type AgentNews = Exclude<AgentFrame, { t: 'ping' | 'pong' | 'auth' | 'hello' | 'reportPart' | 'reportRefused' }>

/** The commands of people. Each names its actor in the envelope; authority.ts says who may. */
export type Command =
  | {
      readonly type: 'request'
      readonly text: string
      readonly preview: boolean
      readonly key: string | null
      /** What the configured source of machines said; the edge asks it just before. */
      readonly known?: Known
    }
  | { readonly type: 'pause' | 'resume' | 'cancel'; readonly change: string; readonly reason: string }
  | { readonly type: 'retry'; readonly change: string; readonly machine: string; readonly reason: string }
  | { readonly type: 'skip'; readonly change: string; readonly machine: string; readonly reason: string }
  | {
      readonly type: 'resolve'
      readonly change: string
      readonly machine: string
      readonly as: 'succeeded' | 'failed'
      readonly reason: string
    }
  | { readonly type: 'freeze' | 'unfreeze'; readonly reason: string }
  | {
      readonly type: 'enrolNew'
      readonly name: string
      readonly tokenHash: string
      readonly ttlMs: number
      readonly replace: boolean
    }
  | { readonly type: 'enrolRevoke'; readonly name: string }
  | {
      readonly type: 'userAdd'
      readonly name: string
      readonly roles: readonly Role[]
      readonly tokenHash: string
      readonly ttlMs: number | null
    }
  | { readonly type: 'userRevoke'; readonly name: string }
  | { readonly type: 'scheduleAdd'; readonly name: string; readonly cron: string; readonly text: string }
  | { readonly type: 'scheduleRemove'; readonly name: string }
  | { readonly type: 'scheduleRun'; readonly name: string; readonly known?: Known }
  /** A decision about a local change; handled by change/local, never by the core. */
  | {
      readonly type: 'decide'
      readonly change: string
      readonly decision: 'approve' | 'reject'
      /** The digest that the person saw; null for a rejection. */
      readonly digest: string | null
      readonly reason: string
    }

/** What a provider says about a change, with the time at which it read it. */
export type Permission = {
  readonly change: string
  readonly approval: 'requested' | 'approved' | 'rejected' | 'withdrawn'
  readonly by: string | null
  readonly reason: string | null
  readonly digest: string
  readonly state: 'open' | 'closed'
  readonly onHold: boolean
  readonly window: { readonly start: Instant; readonly end: Instant } | null
  readonly readAt: Instant
}

export type Event =
  /** The coordinator has loaded its state; nobody is connected. */
  | { readonly type: 'opened' }
  | { readonly type: 'tick' }
  | { readonly type: 'command'; readonly command: Command }
  /** A backup was written: whoever has it and its passphrase has the keys. */
  | { readonly type: 'backupMade'; readonly path: string }
  /** A person wants a health report; that one was made by itself stands there anyway. */
  | { readonly type: 'reportAsked'; readonly machine: string }
  /** A person opened or ended a session in a browser. */
  | { readonly type: 'loggedIn' | 'loggedOut'; readonly address: string }
  /** The interface let a person not through to what the call asks for. */
  | { readonly type: 'callRefused'; readonly call: string; readonly reason: string }
  | {
      readonly type: 'enrol'
      readonly tokenHash: string
      readonly publicKey: string
      readonly facts: Facts
      readonly address: string
    }
  /** A machine proved its key and said hello. The counter is the one it proved with. */
  | {
      readonly type: 'sessionOpened'
      readonly machine: string
      readonly session: string
      readonly address: string
      readonly counter: number
      readonly hello: Extract<AgentFrame, { t: 'hello' }>
    }
  | { readonly type: 'sessionClosed'; readonly machine: string; readonly session: string; readonly reason: string }
  /** Two machines were seen to hold one key; `problem` says by what. */
  | { readonly type: 'keyShared'; readonly machine: string; readonly address: string; readonly problem: string }
  | { readonly type: 'agentNews'; readonly machine: string; readonly session: string; readonly news: AgentNews }
  | {
      readonly type: 'changeRaised'
      readonly project: string
      readonly change: string
      readonly tasks: readonly string[]
    }
  | { readonly type: 'changeRefused'; readonly project: string; readonly refusal: Refusal }
  /** An answer to `ask` of the project, or news that came by itself (`ask: null`), which grants nothing. */
  | {
      readonly type: 'permission'
      readonly project: string
      readonly ask: string | null
      readonly permission: Permission
    }
  | {
      readonly type: 'providerFailed'
      readonly project: string
      readonly ask: string | null
      readonly reason: string
      /** The provider answers, and does not have the change. */
      readonly isGone?: true
    }
  /** A schedule is due, and the source of machines was asked for it (LKP-20). */
  | { readonly type: 'scheduleDue'; readonly name: string; readonly ask: string; readonly known?: Known }
  /** A health report that was made for an order is kept; `summary` is its SUMMARY.md. */
  | { readonly type: 'reportKept'; readonly order: string; readonly report: string; readonly summary: string }
  /** A call on the provider that lives in this process (change/local). */
  | { readonly type: 'localCall'; readonly call: ChangeCall }
  /** What became of a call of the outbox (change/outbox). */
  | { readonly type: 'callDelivered'; readonly project: string; readonly place: number; readonly delivered: Delivered }

export type Envelope = { readonly at: Instant; readonly actor: Actor; readonly event: Event }

/** What came of a call that was made at a provider outside smith. */
export type Delivered =
  | { readonly what: 'done' }
  | { readonly what: 'raised'; readonly number: string; readonly sysId: string; readonly tasks: RemoteChange['tasks'] }
  /** Nothing was raised, and nothing will be. */
  | { readonly what: 'refused'; readonly refusal: Refusal }

/** What is sent after the commit. Each may be lost or repeated; it is derived again from the state. */
export type Send =
  | {
      readonly to: 'agent'
      readonly machine: string
      readonly frame: Exclude<CoordinatorFrame, { t: 'grant' | 'offer' }>
    }
  /** The session makes the frame: it reads the plan from the store, and signs the grant. */
  | {
      readonly to: 'agent'
      readonly machine: string
      readonly offer: { readonly order: string; readonly planHash: string }
    }
  | { readonly to: 'agent'; readonly machine: string; readonly grant: GrantPayload }
  | {
      readonly to: 'agent'
      readonly machine: string
      readonly drop: { readonly session: string; readonly reason: 'superseded' | 'quarantined' | 'notAllowed' }
    }
  | { readonly to: 'change'; readonly call: ChangeCall }
  | { readonly to: 'core'; readonly event: Event }
  /** To be given back with what the source of machines says then. */
  | { readonly to: 'lookup'; readonly event: Extract<Event, { type: 'scheduleDue' }> }

/** Records to append to an order's log, in the same transaction as the rows. */
export type LogAppend = { readonly order: string; readonly from: number; readonly records: readonly RunRecord[] }

export type Reply =
  | { readonly ok: true; readonly value?: ReplyValue }
  | { readonly ok: false; readonly refusals: readonly Refusal[] }
export type ReplyValue = {
  readonly request?: string
  readonly id?: string
  readonly machine?: string
  readonly name?: string
  readonly expiresAt?: Instant
}

export type Outcome = {
  readonly writes: readonly Write[]
  readonly logs: readonly LogAppend[]
  readonly sends: readonly Send[]
  /** For the journal and the feed. A turn that wrote nothing stored and says nothing leaves no row. */
  readonly facts: readonly Fact[]
  readonly reply: Reply
}

/** The windows and blackouts of the configuration as instants, and how a person writes and reads a time. */
export type Calendar = {
  /**
   * The first stretch from `from` on that is open for at least `needMs`, with why it does not begin at `from`; null
   * when none is in sight. Its end is null when it has none in sight.
   */
  readonly nextOpen: (
    from: Instant,
    needMs: number,
  ) => { readonly start: Instant; readonly end: Instant | null; readonly why: string | null } | null
  /** The first time of a cron expression after an instant; null when none is in sight. */
  readonly nextTime: (cron: string, after: Instant) => Instant | null | { readonly problem: string }
  readonly readSpan: (text: string) => Span | { readonly problem: string }
  /** To the minute, with the time zone. */
  readonly show: (at: Instant) => string
}

/** A train as the configuration has it; its patterns and windows are made into functions by pattern.ts. */
export type Train = {
  readonly name: string
  readonly has: (machine: string) => boolean
  readonly leavesOut: (machine: string) => boolean
  readonly approval: boolean
  /** Of whom one must ask; when both are empty, whoever may ask at all. */
  readonly roles: readonly Role[]
  readonly people: readonly string[]
  /** When its machines may be patched; null for always. */
  readonly windows: Pick<Calendar, 'nextOpen'> | null
}

/** What a step may use besides its state: all deterministic given the seed. */
export type Tools = {
  /** A new random 128-bit id. */
  readonly newId: () => string
  /** SHA-256 of the UTF-8 text, hexadecimal. */
  readonly sha256: (text: string) => string
  /** A matcher whose time is linear in its input (RE2), or the reason why the pattern is none. */
  readonly compilePattern: (
    source: string,
  ) => { readonly matches: (name: string) => boolean } | { readonly problem: string }
  /** What the first of the configured cluster patterns that matches the name captures, or null. */
  readonly captureCluster: (name: string) => string | null
  readonly calendar: Calendar
  readonly trains: readonly Train[]
  readonly settings: Settings
  /** Where a person decides about a change that is kept outside smith. */
  readonly changeLink?: (change: RemoteChange) => string
}

export type TrainSettings = Pick<Train, 'name' | 'approval' | 'roles' | 'people'> & {
  readonly machines: readonly string[]
  readonly except: readonly string[]
  /** Rules as in `schedule`; none means always. */
  readonly windows: readonly string[]
}

/** All time bounds in milliseconds. */
export type Settings = {
  readonly instance: string
  /** The source of machines as a person names it, where one is configured: no request is taken without its answer. */
  readonly lookup?: string
  /** Name patterns (RE2, unanchored) and the region they tell; the first that matches wins. */
  readonly regions: readonly { readonly pattern: string; readonly region: string }[]
  /** Name patterns with one group: what it captures is the cluster. */
  readonly clusters: readonly { readonly pattern: string }[]
  /** Policy by name: words as in a request (names and patterns) say which machines are meant and which are left out. */
  readonly trains: readonly TrainSettings[]
  readonly approval: { readonly requesterMayApprove: boolean; readonly localAdminMayApprove: boolean }
  readonly schedule: {
    /** An IANA time zone, in which the rules and the times of requests are read. */
    readonly timezone: string
    /** Rules: `CRON for DURATION` or `START/END`. Without windows it is open always. */
    readonly windows: readonly string[]
    readonly blackouts: readonly string[]
    /** How long a machine is expected to take while none of its project has shown it. */
    readonly runMsExpected: number
  }
  readonly limits: {
    readonly machinesPerRequestMax: number
    readonly plansInParallelMax: number
    readonly prefetchAheadMax: number
    readonly planTimeMsMax: number
    /** A wait longer than this becomes a hold. */
    readonly waitMsMax: number
    /** An order whose machine has been out of reach this long is unknown. */
    readonly silenceMsMax: number
    readonly grantLifeMs: number
    readonly permissionAgeMsMax: number
    readonly permissionRetryMs: number
    /** How often the provider is asked whether a pending change was decided. */
    readonly changePollMs: number
  }
}

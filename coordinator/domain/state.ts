/**
 * The entities that the core decides about, as flat rows of named tables. A step reads them through a Draft and
 * answers with the rows to write; the driver commits those and then applies them. What can be derived is not here.
 */
import type { Facts, OrderInHand } from '../../protocol/agent.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { Cause, Result, Step } from '../../protocol/files.ts'
import type { Role } from '../../protocol/http.ts'
import type { Plan, PlanEvidence } from '../../protocol/plan.ts'
import type { MachineState, Stop, StopReason } from '../../protocol/status.ts'
import type { Schedule } from './schedule-rows.ts'

/** Milliseconds since the epoch; never goes back within one life of a coordinator. */
export type Instant = number

/** Who acts. A person has roles, and `via` is the bot that speaks for them; the admin socket has nobody behind it. */
export type Actor =
  | { readonly kind: 'person'; readonly name: string; readonly roles: readonly Role[]; readonly via?: string }
  | { readonly kind: 'local-admin' }
  | { readonly kind: 'machine'; readonly id: string; readonly name: string }
  | { readonly kind: 'change' }
  | { readonly kind: 'smith' }

/** A host by the random id that it got at enrolment; its name is a label that a reinstalled host takes over. */
export type Machine = {
  readonly id: string
  readonly name: string
  readonly state: 'active' | 'retired'
  /** Ed25519, SPKI in DER, base64. */
  readonly publicKey: string
  /** The join-state counter of the last proof; a lower or equal one is a clone. */
  readonly counter: number
  readonly quarantined: string | null
  /** The highest fence that the machine ever reported. */
  readonly fence: number
  readonly facts: Facts | null
  readonly builds: readonly string[]
  readonly template: boolean
  readonly enrolledAt: Instant
  readonly enrolledBy: string
  readonly lastSeenAt: Instant | null
  readonly lastPatchedAt: Instant | null
  readonly rebootPending: boolean
  /** The project that has it now, null when none. A machine is in one open project at most. */
  readonly project: string | null
}

/** A connection that has said hello. Kept in memory only: after a restart nobody is connected. */
export type Session = {
  readonly machine: string
  readonly session: string
  readonly address: string
  readonly since: Instant
  readonly bootId: string
  readonly incarnation: string
  readonly impediment: Refusal | null
  readonly orders: readonly OrderInHand[]
}

export type User = {
  readonly name: string
  readonly roles: readonly Role[]
  readonly tokenHash: string
  readonly createdAt: Instant
  readonly expiresAt: Instant | null
  readonly revokedAt: Instant | null
}

export type Enrolment = {
  readonly id: string
  readonly name: string
  readonly tokenHash: string
  readonly replace: boolean
  readonly by: string
  readonly expiresAt: Instant
  readonly usedAt: Instant | null
  readonly revokedAt: Instant | null
}

/** Two instants, the end exclusive. */
export type Span = { readonly start: Instant; readonly end: Instant }
/** A number of machines, or a share of all of them. */
export type Share = { readonly value: number; readonly unit: 'machines' | 'percent' }

export type RequestOptions = {
  readonly outageMinutes: number
  /** What becomes of machines that were matched, not named, and can't be patched. */
  readonly offline: 'refuse' | 'skip'
  readonly busy: 'refuse' | 'skip'
  readonly phases: readonly Share[]
  readonly soakMinutes: number
  readonly onFailure: 'stop' | 'continue'
  readonly maxFailures: Share | null
  readonly window: Span | null
  /** What its trains said; absent when no machine of it is of a train. */
  readonly policy?: Policy
  /** The source that said which machines there are, and when; absent where none is configured. */
  readonly lookup?: { readonly source: string; readonly at: Instant }
}

/** What the trains of a request said when it was made. */
export type Policy = {
  readonly trains: readonly string[]
  /** The trains that approve by their policy; none when a person must. */
  readonly approvedBy: readonly string[]
  /** The trains from which the window comes; none when it is the request's own. */
  readonly windowOf: readonly string[]
  readonly leftOut: readonly { readonly name: string; readonly train: string }[]
}

/** Someone asks. It lives from the question until a project is made of it, it is refused, or it was a preview. */
export type Request = {
  readonly id: string
  readonly key: string | null
  readonly text: string
  readonly by: string
  readonly at: Instant
  readonly preview: boolean
  readonly state: 'planning' | 'refused' | 'previewed' | 'raising' | 'raised'
  readonly build: string
  readonly region: string
  /** The one machine's name, the pattern as asked, or `N machines`. */
  readonly title: string
  readonly options: RequestOptions
  readonly total: number
  readonly answered: number
  readonly refusals: readonly Refusal[]
  /** Machines that were matched and can't be patched, where the request allows that. */
  readonly skipped: readonly {
    readonly index: number
    readonly name: string
    readonly machine: string
    readonly reason: string
  }[]
  readonly project: string | null
  readonly change: string | null
  readonly deadline: Instant
}

/** `id` is also the key: it begins with the owner's, so that an owner's queries can be listed. One machine asked to plan, for a request (`purpose: 'request'`) or again after the approval (`'check'`). */
export type Query = {
  readonly id: string
  readonly purpose: 'request' | 'check'
  /** The request, or the project. */
  readonly owner: string
  /** The place of the machine in the order of the request or project. */
  readonly index: number
  readonly machine: string
  readonly name: string
  /** True when a pattern found it, false when it was named. */
  readonly matched: boolean
  readonly state: 'queued' | 'asked' | 'answered'
  readonly deadline: Instant | null
  readonly planHash: string | null
  readonly refusal: Refusal | null
  readonly warnings: readonly string[]
}

/** A plan as it was made, by its hash; written once, in the store only. */
export type StoredPlan = { readonly hash: string; readonly plan: Plan; readonly evidence: PlanEvidence }

export type Counts = {
  readonly pass: number
  readonly fail: number
  readonly unstarted: number
  readonly running: number
  readonly unknown: number
  readonly skipped: number
  readonly cancelled: number
}

/**
 * The work done under one change.
 *
 *   raising -> pending -> checking -> open -> closed
 *
 * raising: the change is being raised; pending: it waits for approval; checking: approved, its machines plan again;
 * open: granted one after another. `stop` says why nothing is granted now.
 */
export type Project = {
  readonly id: string
  readonly request: string
  readonly change: string | null
  readonly requester: string
  readonly text: string
  readonly title: string
  readonly build: string
  readonly region: string
  readonly options: RequestOptions
  readonly digest: string
  readonly createdAt: Instant
  readonly state: 'raising' | 'pending' | 'checking' | 'open' | 'closed'
  readonly outcome: 'complete' | 'failed' | 'cancelled' | null
  readonly approval: { readonly by: string; readonly at: Instant } | null
  readonly targets: number
  readonly bags: number
  readonly counts: Counts
  /** The index of the first target that has not ended. */
  readonly cursor: number
  /** The number of the phase that is open: no machine of a later one is granted. */
  readonly phase: number
  /** When the last run of the open phase ended, from which its soak counts; null when there is none to wait for. */
  readonly soakFrom: Instant | null
  /** As many failures that nobody has decided about stop the project; null for no number of them. */
  readonly failuresMax: number | null
  /** The longest that a machine took which passed, null while none has. */
  readonly runMsMax: number | null
  /** True from when the window was found shut until the machines have planned again. */
  readonly wasShut: boolean
  /** Which time the machines plan again, and how many have not answered: nothing is granted before. */
  readonly checkRound: number
  readonly checksOpen: number
  /** The order between granted and finished and known, null when the line is free. */
  readonly active: string | null
  /** When the line last became free: a permission asked for before that grants nothing. */
  readonly freeSince: Instant
  /** The places of machines that failed and have not been decided about. */
  readonly undecided: readonly number[]
  /** Why the provider's last answer did not permit a grant; null when it did or was not asked. */
  readonly denied: {
    readonly code: StopReason
    readonly reason: string
    readonly until?: Instant
    /** Nothing is found where the change was. */
    readonly isGone?: true
  } | null
  readonly paused: { readonly by: string; readonly at: Instant; readonly reason: string } | null
  readonly cancelling: { readonly by: string; readonly at: Instant; readonly reason: string } | null
  readonly stop: Stop | null
  readonly closedAt: Instant | null
  readonly closeNotes: string | null
}

export type Bag = {
  readonly project: string
  readonly index: number
  readonly phase: number
  readonly name: string
  readonly task: string | null
  readonly first: number
  readonly count: number
  readonly counts: Counts
}

/** One machine's place in a project. */
export type Target = {
  readonly project: string
  readonly index: number
  readonly bag: number
  /** '' for one that only the source of machines knows, which is skipped. */
  readonly machine: string
  readonly name: string
  readonly cluster: string
  readonly planHash: string
  readonly isEmpty: boolean
  readonly state: MachineState
  /** The order of the present try, null before the first. */
  readonly order: string | null
  readonly attempt: number
  /** Whether it still planned what was approved, when it planned again. */
  readonly check: 'none' | 'due' | 'same' | 'drift' | 'refused'
  readonly step: Step | null
  readonly progress: string | null
  readonly startedAt: Instant | null
  readonly endedAt: Instant | null
  readonly cause: Cause | null
  readonly message: string | null
  readonly evidence: readonly string[]
  readonly advice: readonly string[]
  /** Why a person skipped or resolved it. */
  readonly reason: string | null
  readonly rebootPending: boolean
  /** True while a failure after the latch keeps the cluster's line. */
  readonly keepsLine: boolean
}

/**
 * A project's instruction to one machine: one try.
 *
 *   offered -> granted -> running -> succeeded | failed
 *                 |          |
 *                 |          +-> rebooting, verifying (parts of running, as the machine tells)
 *                 +-> voided (revoked before it was claimed)
 *   granted, running, ... -> unknown -> running | succeeded | failed | voided (by evidence or by a person)
 *   offered -> cancelled
 */
export type Order = {
  readonly id: string
  readonly project: string
  readonly target: number
  readonly machine: string
  readonly name: string
  readonly attempt: number
  readonly state: 'offered' | 'granted' | 'running' | 'unknown' | 'succeeded' | 'failed' | 'voided' | 'cancelled'
  /** 0 until it is granted. */
  readonly fence: number
  readonly grantedAt: Instant | null
  readonly startBy: Instant | null
  /** The boot of the machine to which the grant was sent; '' until then. */
  readonly boot: string
  /** The machine has said that it keeps the grant, on a disk that no power cut empties. */
  readonly taken: boolean
  readonly claimed: boolean
  readonly latched: boolean
  readonly step: Step | null
  readonly stepAt: Instant | null
  /** The machine's own time of its first record. */
  readonly firstAt: number | null
  readonly progress: string | null
  /** The number of the last record committed. */
  readonly upTo: number
  /** When anything was last heard of it, and since when its machine is not connected. */
  readonly heardAt: Instant | null
  readonly silentSince: Instant | null
  /** Set when the grant was called back and the machine has not said yet which came first. */
  readonly revoking: boolean
  readonly unknownReason: string | null
  readonly endedAt: Instant | null
  /** The run's result; also one that came after a person had resolved the order. */
  readonly result: Result | null
  readonly resolvedBy: string | null
}

/** A line in use: key `project:<id>` or `cluster:<name>`. That a key exists once is the serial rule. */
export type Line = {
  readonly key: string
  readonly project: string
  readonly target: number
  readonly order: string
  readonly machine: string
  readonly since: Instant
}

/** The instance itself, one row with key `instance`. */
export type Instance = {
  readonly frozen: { readonly by: string; readonly at: Instant; readonly reason: string } | null
  readonly fence: number
  readonly change: number
  readonly task: number
}

/** A change request of the local provider; the core never reads it. */
export type LocalChange = {
  readonly number: string
  readonly project: string
  readonly requester: string
  readonly summary: string
  readonly digest: string
  readonly tasks: readonly string[]
  readonly approval: 'requested' | 'approved' | 'rejected' | 'withdrawn'
  readonly decidedBy: string | null
  readonly decidedAt: Instant | null
  readonly reason: string | null
  /** The trains whose policy approved it, as long as it stands by that alone. */
  readonly policy?: readonly string[]
  readonly state: 'open' | 'closed'
  readonly closeCode: 'successful' | 'successful_issues' | 'unsuccessful' | null
  readonly closeNotes: string | null
  readonly notes: readonly string[]
}

/** What the core asks of the change provider. Every call may be repeated; `raise` is idempotent by project. */
export type ChangeCall =
  | {
      readonly call: 'raise'
      readonly project: string
      readonly requester: string
      readonly summary: string
      readonly digest: string
      readonly build: string
      readonly outageMinutes: number
      readonly bags: readonly { readonly name: string; readonly machines: readonly string[] }[]
      /** How the project will go, for those who approve it, and its window. */
      readonly terms: readonly string[]
      readonly window: Span | null
      /** The trains whose policy approves it; none when a person must. */
      readonly approvedBy?: readonly string[]
      readonly warnings: readonly string[]
    }
  | { readonly call: 'permission'; readonly project: string; readonly change: string; readonly ask: string }
  | {
      readonly call: 'task'
      readonly project: string
      readonly change: string
      readonly task: string
      readonly state: 'open' | 'working' | 'closed'
      readonly note: string
      /** A file to go with the note, where the provider takes files. */
      readonly attachment?: { readonly name: string; readonly text: string }
    }
  | {
      readonly call: 'close'
      readonly project: string
      readonly change: string
      readonly code: 'successful' | 'successful_issues' | 'unsuccessful'
      readonly notes: string
    }

/**
 * The change of a project at a provider outside smith. Its calls wait in the outbox under the numbers from `sent` to
 * `queued` (exclusive); the core never reads it.
 */
export type RemoteChange = {
  readonly project: string
  readonly requester: string
  readonly digest: string
  /** Null until it is known that it was raised. */
  readonly number: string | null
  /** The provider's own key of it, and of its tasks in the order of the bags. */
  readonly sysId: string | null
  readonly tasks: readonly { readonly number: string; readonly sysId: string }[]
  readonly sent: number
  readonly queued: number
  /** A person gave it up after its project had ended: when it is not there any more, it is let go. */
  readonly givenUp?: true
}

/** A call that a turn wants to be made at a provider outside smith, committed with that turn. */
export type OutboxRow = {
  readonly project: string
  readonly place: number
  readonly at: Instant
  readonly call: Exclude<ChangeCall, { call: 'permission' }>
}

/** A question that is not answered yet: a project's for the permission. In memory only: a restart asks anew. */
export type PendingAsk = { readonly id: string; readonly at: Instant }

export type Tables = {
  readonly instance: Instance
  readonly machines: Machine
  readonly names: { readonly machine: string }
  readonly sessions: Session
  readonly users: User
  readonly tokens: { readonly user: string }
  readonly enrolments: Enrolment
  readonly requests: Request
  readonly requestKeys: { readonly request: string }
  readonly queries: Query
  readonly projects: Project
  /** By project. */
  readonly asks: PendingAsk
  readonly changes: { readonly project: string }
  readonly bags: Bag
  readonly targets: Target
  readonly orders: Order
  readonly lines: Line
  readonly plans: StoredPlan
  readonly localChanges: LocalChange
  /** By project. */
  readonly remoteChanges: RemoteChange
  /** By project and place, padded so that keys sort in order. */
  readonly outbox: OutboxRow
  readonly schedules: Schedule
  /** By schedule: the source of machines is being asked for it. In memory only: a restart asks anew. */
  readonly scheduleAsks: PendingAsk
}
export type TableName = keyof Tables

/** Every table, with whether it is stored, and whether it is kept in memory while its rows are live. */
export const TABLES: { readonly [Name in TableName]: { readonly stored: boolean; readonly inView: boolean } } = {
  instance: { stored: true, inView: true },
  machines: { stored: true, inView: true },
  names: { stored: true, inView: true },
  sessions: { stored: false, inView: true },
  users: { stored: true, inView: true },
  tokens: { stored: true, inView: true },
  enrolments: { stored: true, inView: true },
  requests: { stored: true, inView: true },
  requestKeys: { stored: true, inView: true },
  queries: { stored: true, inView: true },
  projects: { stored: true, inView: true },
  asks: { stored: false, inView: true },
  changes: { stored: true, inView: true },
  bags: { stored: true, inView: true },
  targets: { stored: true, inView: true },
  orders: { stored: true, inView: true },
  lines: { stored: true, inView: true },
  plans: { stored: true, inView: false },
  localChanges: { stored: true, inView: true },
  remoteChanges: { stored: true, inView: true },
  outbox: { stored: true, inView: true },
  schedules: { stored: true, inView: true },
  scheduleAsks: { stored: false, inView: true },
}

/** One row to write. `row: null` deletes it; `live: false` keeps it in the store and drops it from memory. */
export type Write = {
  readonly [Name in TableName]: {
    readonly table: Name
    readonly key: string
    readonly row: Tables[Name] | null
    readonly live: boolean
  }
}[TableName]

/** The key of a target or bag: its project and its place, padded so that keys sort in order. */
export function placeKey(project: string, index: number): string {
  return `${project}/${String(index).padStart(6, '0')}`
}

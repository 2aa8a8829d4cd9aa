/**
 * What the interface needs from the rest of the coordinator. `createApi(ports)` is called by the composition and by
 * the tests; nothing in this folder reads a clock, a file or a random number but through these. The interface keeps
 * no state of its own that matters: everything it shows is read from the driver's view or the store.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Refusal } from '../../protocol/errors.ts'
import type { BackupAnswer, DoctorView, MissingView, PlanView } from '../../protocol/http.ts'
import type { Elsewhere, Status } from '../../protocol/status.ts'
import type { Machine, Request } from '../domain/state.ts'
import type { Tools } from '../domain/events.ts'
import type { Driver } from '../driver.ts'
import type { ReportView } from '../../protocol/report.ts'
import type { ServiceLogPage } from '../../protocol/service-log.ts'
import type { Clock, DashboardFiles, Log, Metrics, Random, ServiceLogQuery, Store } from '../ports.ts'

/** An answer, or every reason why there is none. */
export type Answer<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly refusals: readonly Refusal[] }

/** Bounds against peers that have not shown who they are, and against ones that ask for too much. */
export type ApiLimits = {
  /** Connections on which nobody has shown who they are yet, in all and from one address; sessions bound agents'. */
  readonly unprovenMax: number
  readonly unprovenPerAddressMax: number
  /** Failed authentications of one address in a minute. */
  readonly authFailuresMax: number
  readonly feedClientsMax: number
  /** Calls that wait for a request to be settled (`?wait=`). */
  readonly waitersMax: number
  /** How long a session in a browser lasts. */
  readonly sessionMsMax: number
  /** For the TLS handshake, and for the headers of each request. */
  readonly headersMsMax: number
  /** For a whole request, its body included. */
  readonly requestMsMax: number
  /** For an answer that its peer does not take; longer than any call waits (`?wait=`). */
  readonly stalledMsMax: number
}

export type ApiPorts = {
  readonly driver: Driver
  readonly store: Store
  /** PEM. Only TLS 1.3 is spoken. */
  readonly tls: { readonly key: string; readonly cert: string }
  /** SHA-256 of the TLS public key (SPKI, DER), base64url; it stands in every enrolment token. */
  readonly pin: string
  readonly orderKeyPublicBase64: string
  readonly instance: string
  /** The one address to listen on, when it is not all of them; `who` tells it. */
  readonly host?: string
  readonly version: string
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly tools: Tools
  /** Takes over the sockets of `/agent`. Without it the path does not exist. */
  readonly onAgentUpgrade?: (request: IncomingMessage, socket: Duplex, head: Buffer) => void
  readonly views: {
    readonly status: (change: string) => Status | undefined
    readonly statusText: (status: Status) => string
    /** Whether changes are decided about outside smith. */
    readonly isRemote?: boolean
    /** How a project's change stands at a provider outside smith; null for one that smith keeps itself. */
    readonly elsewhere?: (project: string) => Elsewhere | null
    /** The plan of a request that has no project (a preview); without it such a request shows none. */
    readonly previewPlan?: (request: Request) => PlanView | undefined
  }
  /** The files of the dashboard by path, `/` among them; without it there is no dashboard. */
  readonly dashboard?: DashboardFiles
  /** What Prometheus reads; without it `/metrics` does not exist. */
  readonly metrics?: Metrics
  /** Writes the sealed backup; it must refuse a file that exists. */
  readonly backup?: (path: string, passphrase: string) => Promise<Answer<BackupAnswer>>
  /** Looks at what is around the coordinator, without changing it. */
  readonly examine?: () => Promise<readonly DoctorView['findings'][number][]>
  /** What the source of machines and the enrolled ones have each for itself; without it there is no source. */
  readonly missing?: () => Promise<Answer<MissingView>>
  /** What is amiss beside the projects, a line each, for whoever looks at the instance. */
  readonly troubles?: () => readonly string[]
  /** The newest of the coordinator's own log. */
  readonly serviceLog?: (query: ServiceLogQuery) => ServiceLogPage
  /** Health reports; without it there are none. */
  readonly reports?: {
    readonly ask: (machine: Machine, by: string) => ReportView
    readonly find: (machine: string, report: string | null) => ReportView | undefined
    readonly file: (machine: string, report: string, name: string) => string | undefined
  }
  /** Why the coordinator can't serve now, null when it can. */
  readonly readiness?: () => string | null
  readonly limits?: Partial<ApiLimits>
}

export const API_LIMITS: ApiLimits = {
  // Many agents may come from behind one translated address, and all come at once when a coordinator was restarted.
  unprovenMax: 1024,
  unprovenPerAddressMax: 256,
  authFailuresMax: 5,
  feedClientsMax: 256,
  headersMsMax: 10_000,
  requestMsMax: 15_000,
  stalledMsMax: 60_000,
  waitersMax: 256,
  sessionMsMax: 12 * 3_600_000,
}

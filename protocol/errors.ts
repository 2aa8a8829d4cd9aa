/**
 * The one shape in which smith says no. Every program derives its own form from it: the HTTP problem, the close
 * code of a socket, the two lines of the CLI. A refusal is a value, returned; a programmer's error is thrown.
 */
import * as v from 'valibot'

/** The closed set of reasons; a metric label and a stable contract, so a new one is a protocol change. */
export const REFUSAL_KINDS = [
  'syntax',
  'bad-value',
  'duplicate-key',
  'unknown-key',
  'unknown-machine',
  'no-match',
  'several-regions',
  'machine-busy',
  'machine-offline',
  'cannot-plan',
  'unknown-build',
  'not-found',
  'conflict',
  'exists',
  'expired',
  'not-allowed',
  'unauthenticated',
  'malformed',
  'version',
  'too-large',
  'too-many',
  'slow',
  'superseded',
  'quarantined',
  'unavailable',
  'internal',
] as const
export type RefusalKind = (typeof REFUSAL_KINDS)[number]

const textMax = 4096
/** A refusal. `position` counts UTF-16 units of the text that was asked, `end` exclusive. */
export const refusalSchema = v.strictObject({
  kind: v.picklist(REFUSAL_KINDS),
  message: v.pipe(v.string(), v.maxLength(textMax)),
  subject: v.optional(v.pipe(v.string(), v.maxLength(textMax))),
  position: v.optional(v.strictObject({ start: v.number(), end: v.number() })),
  remedy: v.pipe(v.string(), v.maxLength(textMax)),
})
export type Refusal = {
  readonly kind: RefusalKind
  readonly message: string
  readonly subject?: string | undefined
  readonly position?: { readonly start: number; readonly end: number } | undefined
  readonly remedy: string
}

/** Carries refusals across code that can only throw; the edge that catches it shows `refusals` and nothing else. */
export class RefusedError extends Error {
  readonly refusals: readonly Refusal[]
  constructor(refusals: readonly Refusal[]) {
    super(refusals.map((refusal) => refusal.message).join('; '))
    this.name = 'RefusedError'
    this.refusals = refusals
  }
}

/** Close codes of both WebSockets (RFC 6455 section 7.4.2 leaves 4000 to 4999 to applications). */
export const CLOSE_CODES = {
  malformed: 4400,
  unauthenticated: 4401,
  notAllowed: 4403,
  version: 4406,
  slowAuth: 4408,
  slowConsumer: 4008,
  superseded: 4009,
  quarantined: 4010,
  silent: 4011,
  tooMany: 4029,
  goingAway: 1001,
} as const
export type CloseReason = keyof typeof CLOSE_CODES

/** The HTTP status that stands for a refusal (RFC 9110 section 15). */
export function httpStatusOf(kind: RefusalKind): number {
  switch (kind) {
    case 'syntax':
    case 'bad-value':
    case 'duplicate-key':
    case 'unknown-key':
    case 'malformed':
      return 400
    case 'unauthenticated':
      return 401
    case 'not-allowed':
    case 'quarantined':
      return 403
    case 'not-found':
    case 'unknown-machine':
    case 'no-match':
      return 404
    case 'conflict':
    case 'exists':
    case 'several-regions':
    case 'machine-busy':
    case 'machine-offline':
    case 'cannot-plan':
    case 'unknown-build':
    case 'superseded':
      return 409
    case 'expired':
      return 410
    case 'too-large':
      return 413
    case 'version':
      return 426
    case 'too-many':
    case 'slow':
      return 429
    case 'internal':
      return 500
    case 'unavailable':
      return 503
    default:
      return unreachable(kind)
  }
}

/** Ends a switch over a closed union: the type checker proves that it is never reached. */
export function unreachable(value: never): never {
  throw new Error(`unreachable value ${JSON.stringify(value)}`)
}

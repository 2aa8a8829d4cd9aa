/**
 * One call of the interface, by the names of the table that the coordinator serves and the CLI calls. The browser adds
 * the session's cookie, which no script sees. A no comes as a CallError with every refusal.
 */
import type * as v from 'valibot'
import { ROUTES, type RouteName } from '../../protocol/http.ts'

export type Answer<Name extends RouteName> = v.InferOutput<(typeof ROUTES)[Name]['answer']>
export type Refused = { readonly message: string; readonly remedy: string }
export type Input = {
  readonly params?: Readonly<Record<string, string>>
  readonly query?: Readonly<Record<string, string>>
  readonly body?: unknown
}

/** `status` 0: no answer came, so that nobody knows whether it was done. */
export class CallError extends Error {
  readonly status: number
  readonly refusals: readonly Refused[]
  constructor(status: number, refusals: readonly Refused[]) {
    super(refusals.map(({ message }) => message).join('; '))
    this.status = status
    this.refusals = refusals
  }
}

const TIMEOUT_MS = 30_000
/** `onEnded`: the session holds no more, so the page asks for a token. `skewMs`: how far this browser's clock is behind. */
export const session = { onEnded: () => {}, skewMs: 0 }
/** The header that it is read from has whole seconds. */
const SKEW_MS_MIN = 3_000

export async function call<Name extends RouteName>(name: Name, input: Input = {}): Promise<Answer<Name>> {
  const route = ROUTES[name]
  const path = route.path.replace(/:([a-z]+)/g, (_, key: string) => encodeURIComponent(input.params?.[key] ?? ''))
  const query = new URLSearchParams(input.query).toString()
  const response = await reach(query === '' ? path : `${path}?${query}`, {
    method: route.method,
    ...(route.body === null
      ? {}
      : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(input.body ?? {}) }),
  })
  const value = jsonOf(response.text)
  if (response.ok) return value as Answer<Name>
  if (response.status === 401 && name !== 'sessionOpen') session.onEnded()
  const refusals = (value as { refusals?: Refused[] } | null)?.refusals
  throw new CallError(
    response.status,
    refusals ?? [{ message: `the coordinator answered ${response.status}`, remedy: 'Look at its own log.' }],
  )
}

/** Null for what is no JSON, such as the page of a proxy in between. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

/** The whole answer: a connection may be cut in the middle of it too. */
async function reach(
  path: string,
  init: RequestInit,
): Promise<{ readonly ok: boolean; readonly status: number; readonly text: string }> {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const response = await fetch(path, { ...init, cache: 'no-store', redirect: 'error', signal })
    const skewMs = Date.parse(response.headers.get('date') ?? '') - Date.now()
    if (!Number.isNaN(skewMs)) session.skewMs = Math.abs(skewMs) < SKEW_MS_MIN ? 0 : skewMs
    return { ok: response.ok, status: response.status, text: await response.text() }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    const isLooking = init.method === 'GET'
    throw new CallError(0, [
      {
        message: `the coordinator did not answer (${why})${isLooking ? '' : '; whether it was done is not known'}`,
        remedy: isLooking ? 'It is tried again.' : 'Look at the status before you try again.',
      },
    ])
  }
}

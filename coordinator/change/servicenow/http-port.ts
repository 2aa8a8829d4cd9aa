/** One HTTP exchange, as a port of this folder: http.ts does it for real, a test plays it. */

export type HttpAsk = {
  readonly method: 'GET' | 'POST' | 'PATCH'
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
  readonly timeoutMs: number
}
/** Header names in lower case. */
export type HttpAnswer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly text: string
}
/** Throws a ServiceNowError of the kind `unreachable` when there was no answer. */
export type Http = (ask: HttpAsk) => Promise<HttpAnswer>

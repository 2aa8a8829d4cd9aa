/**
 * What may come in: JSON bodies and queries, all checked against the closed schemas of the protocol. Called by the
 * routes before any handler; what passes has exactly the shape that the schema says, with no key twice. Parameters of
 * a path are names to look something up by, and nothing else is ever done with them.
 */
import type { IncomingHttpHeaders } from 'node:http'
import * as v from 'valibot'
import type { Refusal } from '../../protocol/errors.ts'
import type { Answer } from './ports.ts'

export const BODY_BYTES_MAX = 65_536
const ISSUES_MAX = 20
const SEE_OPENAPI = 'see /api/v1/openapi.json for what this route takes'

/** Parses a body; an empty one is `{}`, since most bodies have no required field. */
export function parseBody(bytes: Buffer): Answer<unknown> {
  if (bytes.length === 0) return { ok: true, value: {} }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    const value: unknown = JSON.parse(text)
    // A list passes for an object without keys where the schema asks for none.
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return refuse('malformed', 'the body is not a JSON object', 'send one JSON object')
    const bad = badKeyOf(text)
    if (bad === null) return { ok: true, value }
    if (bad.problem === 'twice')
      return refuse(
        'duplicate-key',
        `the body has the key ${JSON.stringify(bad.key)} twice`,
        'give each key once',
        bad.key,
      )
    return refuse('unknown-key', `the body has a key ${bad.key} that is not known here`, SEE_OPENAPI, bad.key)
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error)
    return refuse('malformed', `the body is not JSON in UTF-8: ${detail}`, 'send one JSON object')
  }
}

/**
 * The first key of a valid JSON text that stands twice in one object, of which JSON.parse would silently keep the
 * last, or that every object inherits, which a closed schema does not see.
 */
export function badKeyOf(json: string): { readonly key: string; readonly problem: 'twice' | 'inherited' } | null {
  const seen: (Set<string> | null)[] = []
  for (const match of json.matchAll(/("(?:[^"\\]|\\.)*")(\s*:)?|[{}[\]]/g)) {
    const token = match[0]
    if (token === '{') seen.push(new Set())
    else if (token === '[') seen.push(null)
    else if (token === '}' || token === ']') seen.pop()
    else if (match[1] !== undefined && match[2] !== undefined) {
      const key = JSON.parse(match[1]) as string
      const keys = seen.at(-1)
      if (keys?.has(key) === true) return { key, problem: 'twice' }
      if (key in Object.prototype) return { key, problem: 'inherited' }
      keys?.add(key)
    }
  }
  return null
}

/** Checks `value` against a closed schema; every difference is a refusal of its own, with its place as the subject. */
export function checkShape<Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
  what: 'body' | 'query',
): Answer<v.InferOutput<Schema>> {
  const parsed = v.safeParse(schema, value)
  if (parsed.success) return { ok: true, value: parsed.output }
  return { ok: false, refusals: parsed.issues.slice(0, ISSUES_MAX).map((issue) => issueRefusal(issue, what)) }
}

function issueRefusal(issue: v.BaseIssue<unknown>, what: string): Refusal {
  const subject = v.getDotPath(issue) ?? what
  const isUnknownKey = issue.type === 'strict_object' && issue.expected === 'never'
  return {
    kind: isUnknownKey ? 'unknown-key' : subject === what ? 'malformed' : 'bad-value',
    message: isUnknownKey
      ? `the ${what} has a key ${subject} that is not known here`
      : `${subject}: ${issue.message}`.slice(0, 500),
    subject,
    remedy: SEE_OPENAPI,
  }
}

/** Why a body can't be taken, by what its headers say of it; null when it may be read. */
export function headerProblem(
  headers: IncomingHttpHeaders,
  takesBody: boolean,
): { readonly refusal: Refusal; readonly status: number } | null {
  const length = headers['content-length']
  const hasBody = headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
  if (!hasBody) return null
  const wrong = (message: string, remedy: string, status: number) => ({
    refusal: { kind: 'malformed' as const, message, remedy },
    status,
  })
  if (!takesBody) return wrong('this route takes no body', 'send none', 400)
  const type = (headers['content-type'] ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
  if (type !== 'application/json')
    return wrong(
      type === '' ? 'the body has no content type' : `the body is ${type.slice(0, 100)}`,
      'send content-type: application/json',
      415,
    )
  const encoding = headers['content-encoding'] ?? 'identity'
  if (encoding !== 'identity') return wrong(`the body is encoded: ${encoding.slice(0, 100)}`, 'send it as it is', 415)
  return null
}

/** A whole number from a query, within its bounds; `fallback` when the key is not there. */
export function numberOf(
  query: Readonly<Record<string, string | undefined>>,
  key: string,
  bounds: { readonly fallback: number; readonly min: number; readonly max: number },
): Answer<number> {
  const text = query[key]
  if (text === undefined) return { ok: true, value: bounds.fallback }
  const value = /^[0-9]{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (value >= bounds.min && value <= bounds.max) return { ok: true, value }
  return {
    ok: false,
    refusals: [
      {
        kind: 'bad-value',
        message: `${key} is not a whole number from ${bounds.min} to ${bounds.max}`,
        subject: key,
        remedy: `leave ${key} out or give a number within these bounds`,
      },
    ],
  }
}

export function refuse(
  kind: Refusal['kind'],
  message: string,
  remedy: string,
  subject?: string,
): { readonly ok: false; readonly refusals: readonly Refusal[] } {
  return { ok: false, refusals: [{ kind, message, remedy, ...(subject === undefined ? {} : { subject }) }] }
}

/**
 * Turns the bytes of one frame into a value of a closed schema, or into a refusal that says what is wrong and where.
 * Called by the coordinator's sessions and by the agent, for every frame that comes in. It never throws, and what
 * it accepts holds each field exactly once: JSON.parse alone keeps the last of two equal keys.
 */
import * as v from 'valibot'
import type { Refusal } from './errors.ts'

export type Decoded<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly refusal: Refusal }

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const QUOTE = 0x22
const BACKSLASH = 0x5c
const COLON = 0x3a
const PROBLEM_CHARACTERS_MAX = 300

export function decodeFrame<S extends v.GenericSchema>(
  schema: S,
  data: string | Uint8Array,
  isBinary: boolean,
  bytesMax: number,
): Decoded<v.InferOutput<S>> {
  if (isBinary) return malformed('the frame is binary; a frame is one text message', 'frame')
  // No UTF-16 unit becomes less than one byte of UTF-8, so a string within the limit is measured cheaply below.
  if (data.length > bytesMax) {
    return tooLarge(`the frame has more than ${bytesMax} bytes`)
  }
  let text: string
  let json: unknown
  try {
    text = typeof data === 'string' ? data : utf8.decode(data)
    json = JSON.parse(text)
  } catch (cause) {
    return malformed(`the frame is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, 'frame')
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    return malformed('the frame is not a JSON object', 'frame')
  }
  const parsed = v.safeParse(schema, json, { abortEarly: true, abortPipeEarly: true })
  if (!parsed.success) {
    const issue = parsed.issues[0]
    const where = v.getDotPath(issue) ?? 'frame'
    return malformed(`${where}: ${issue.message}`, where)
  }
  // Equal counts mean that no key was given twice and none was smuggled in under a name that objects inherit.
  if (keysOfText(text) !== keysOfValue(parsed.output)) {
    return malformed('a key stands twice, or is one that no frame has', 'frame')
  }
  return { ok: true, value: parsed.output }
}

/** Counts the keys of a text that is known to be valid JSON: strings that a colon follows. */
function keysOfText(text: string): number {
  let count = 0
  let at = text.indexOf('"')
  while (at !== -1) {
    at += 1
    while (at < text.length && text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1
    at += 1
    while (at < text.length && text.charCodeAt(at) <= 0x20) at += 1
    if (text.charCodeAt(at) === COLON) count += 1
    at = text.indexOf('"', at)
  }
  return count
}

/** Its depth is that of the schema, since only what the schema knows is in the value. */
function keysOfValue(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  let count = 0
  if (Array.isArray(value)) {
    for (const item of value) count += keysOfValue(item)
    return count
  }
  for (const item of Object.values(value)) count += 1 + keysOfValue(item)
  return count
}

function malformed(problem: string, where: string): { readonly ok: false; readonly refusal: Refusal } {
  return {
    ok: false,
    refusal: {
      kind: 'malformed',
      message: problem.slice(0, PROBLEM_CHARACTERS_MAX),
      subject: where.slice(0, PROBLEM_CHARACTERS_MAX),
      remedy: 'Both sides must speak the same version of the protocol; compare the versions of agent and coordinator.',
    },
  }
}

function tooLarge(problem: string): { readonly ok: false; readonly refusal: Refusal } {
  return {
    ok: false,
    refusal: {
      kind: 'too-large',
      message: problem,
      remedy: 'Send less in one frame; the limit is part of the protocol.',
    },
  }
}

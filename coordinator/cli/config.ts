/**
 * Which coordinator is meant: the file of the instances that a person's CLI knows (TOML, mode 0600), the options
 * `--instance`, `--socket`, `--config`, and the admin socket where there is no file. Called by every verb. The
 * invariants: a token is never read from a file that others can read, and never written to one.
 */
import { accessSync, constants, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { TomlError, parse, stringify } from 'smol-toml'
import * as v from 'valibot'
import { PERSON_TOKEN_PATTERN } from '../../protocol/http.ts'
import { PIN_PATTERN } from '../../protocol/pin.ts'
import { EXIT, ClientError, usageError } from '../client/failure.ts'
import { type Target, parseUrl } from '../client/target.ts'
import type { Io } from './io.ts'

export const ADMIN_SOCKET = '/run/smith-coordinator/admin.sock'
export const INSTANCE_PATTERN = /^[a-z0-9][a-z0-9-]{0,31}$/

const instanceSchema = v.strictObject({
  url: v.pipe(
    v.string(),
    v.check((text) => parseUrl(text) !== null, 'must have the form https://HOST:7600'),
  ),
  pin: v.pipe(v.string(), v.regex(PIN_PATTERN, 'must be the 43 characters of a pin')),
  token: v.pipe(v.string(), v.regex(PERSON_TOKEN_PATTERN, 'must be a personal token (smithp_...)')),
})
export type InstanceConfig = v.InferOutput<typeof instanceSchema>
const configSchema = v.strictObject({
  default: v.optional(v.string()),
  instances: v.optional(v.record(v.pipe(v.string(), v.regex(INSTANCE_PATTERN)), instanceSchema)),
})
export type Config = v.InferOutput<typeof configSchema>

export type Choice = {
  readonly instance?: string | undefined
  readonly socket?: string | undefined
  readonly config?: string | undefined
  readonly timeoutMs: number
}

export function configPath(io: Io, chosen: string | undefined): string {
  if (chosen !== undefined) return chosen
  const home = io.env['XDG_CONFIG_HOME'] ?? ''
  return join(home === '' ? join(io.env['HOME'] ?? homedir(), '.config') : home, 'smith', 'config.toml')
}

/** The file's content, null when there is none. An error names file, line and key. */
export function readConfig(path: string): Config | null {
  let text: string
  try {
    if ((statSync(path).mode & 0o077) !== 0) {
      throw new ClientError(EXIT.refused, `${path} holds tokens and others can read it`, `Type: chmod 600 ${path}`)
    }
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof ClientError) throw error
    if (codeOf(error) === 'ENOENT') return null
    throw new ClientError(
      EXIT.refused,
      `${path} can't be read: ${messageOf(error)}`,
      `Make it readable to you, or name another with --config FILE.`,
      error,
    )
  }
  return parseConfig(path, text)
}

function parseConfig(path: string, text: string): Config {
  const remedy = `Correct ${path}, or write it anew with: smith login`
  let table: unknown
  try {
    table = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const why = error.message.split('\n')[0] ?? ''
    throw new ClientError(EXIT.refused, `${path}:${error.line}: ${why}`, remedy, error)
  }
  const parsed = v.safeParse(configSchema, table)
  if (parsed.success) return parsed.output
  const issue = parsed.issues[0]
  const keys = (issue.path ?? []).map((item) => String(item.key))
  const line = lineOfKey(text, keys)
  throw new ClientError(EXIT.refused, `${path}:${line}: ${keys.join('.')}: ${issue.message}`, remedy)
}

/** The line on which the longest known part of a key stands, 1 when none does. */
function lineOfKey(text: string, keys: readonly string[]): number {
  const lines = text.split('\n')
  for (let length = keys.length; length > 0; length -= 1) {
    const table = keys.slice(0, length - 1).join('.')
    const key = keys[length - 1] ?? ''
    const header = lines.findIndex((line) => line.trim() === `[${keys.slice(0, length).join('.')}]`)
    if (header >= 0) return header + 1
    const start = table === '' ? 0 : lines.findIndex((line) => line.trim() === `[${table}]`)
    if (start < 0) continue
    const found = lines.findIndex((line, index) => index >= start && line.split('=')[0]?.trim() === key)
    if (found >= 0) return found + 1
  }
  return 1
}

/** Writes whole or not at all, readable to the owner only. */
export function writeConfig(path: string, config: Config): void {
  const draft = `${path}.${process.pid}.new`
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    writeFileSync(draft, stringify(config), { mode: 0o600, flag: 'wx', flush: true })
    renameSync(draft, path)
  } catch (error) {
    rmSync(draft, { force: true })
    throw new ClientError(
      EXIT.refused,
      `${path} can't be written: ${messageOf(error)}`,
      'Make its folder writable to you, or name another file with --config FILE.',
      error,
    )
  }
}

export function tlsTarget(name: string, instance: InstanceConfig, timeoutMs: number): Target {
  const at = parseUrl(instance.url)
  if (at === null) throw usageError(`${instance.url} is no address`, 'Give it as https://HOST:7600.')
  return { name, timeoutMs, reach: { kind: 'tls', ...at, pin: instance.pin, token: instance.token } }
}

/** Every coordinator that the options leave: one, or all of the file, in its order. */
export function targetsOf(io: Io, choice: Choice): Target[] {
  if (choice.socket !== undefined) {
    if (choice.instance !== undefined) {
      throw usageError('--socket and --instance exclude each other', 'Leave one of them out.')
    }
    return [{ name: 'local', timeoutMs: choice.timeoutMs, reach: { kind: 'socket', path: choice.socket } }]
  }
  const path = configPath(io, choice.config)
  const config = readConfig(path)
  if (config === null && choice.config !== undefined) {
    throw usageError(`there is no file ${path}`, `Write it with: smith login --config ${path}`)
  }
  const instances = Object.entries(config?.instances ?? {})
  if (choice.instance !== undefined) return [namedTarget(path, instances, choice.instance, choice.timeoutMs)]
  if (instances.length > 0) return instances.map(([name, entry]) => tlsTarget(name, entry, choice.timeoutMs))
  if (isSocketUsable(ADMIN_SOCKET)) {
    return [{ name: 'local', timeoutMs: choice.timeoutMs, reach: { kind: 'socket', path: ADMIN_SOCKET } }]
  }
  throw usageError(
    `no coordinator is known: ${path} names none and ${ADMIN_SOCKET} can't be used here`,
    'Type: smith login --url https://HOST:7600 --pin PIN, or name the admin socket with --socket PATH.',
  )
}

/** Those that may be meant: the chosen one, the default, else all. */
export function candidatesOf(io: Io, choice: Choice): Target[] {
  const targets = targetsOf(io, choice)
  if (targets.length === 1) return targets
  const byDefault = readConfig(configPath(io, choice.config))?.default
  const chosen = targets.find((target) => target.name === byDefault)
  return chosen === undefined ? targets : [chosen]
}

/** The one coordinator that a changing verb goes to: the chosen, the default or the only one. */
export function oneTarget(io: Io, choice: Choice): Target {
  const targets = candidatesOf(io, choice)
  const [only] = targets
  if (only !== undefined && targets.length === 1) return only
  const names = targets.map((target) => target.name)
  throw usageError(
    `several instances are known (${names.join(', ')}) and none is chosen`,
    `Add --instance ${names[0]}, or set default = "${names[0]}" in ${configPath(io, choice.config)}.`,
  )
}

function namedTarget(path: string, instances: [string, InstanceConfig][], name: string, timeoutMs: number): Target {
  const entry = instances.find(([known]) => known === name)
  if (entry !== undefined) return tlsTarget(name, entry[1], timeoutMs)
  const known = instances.length === 0 ? 'none' : instances.map(([one]) => one).join(', ')
  throw usageError(
    `instance ${name} is not in ${path} (known: ${known})`,
    `Type: smith login --instance ${name} --url https://HOST:7600 --pin PIN`,
  )
}

/** Root may always try: a missing socket is then named in the error of the call. */
function isSocketUsable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return process.getuid?.() === 0
  }
}

const codeOf = (error: unknown) => (error instanceof Error && 'code' in error ? error.code : undefined)
const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))

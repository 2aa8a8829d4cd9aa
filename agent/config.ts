/**
 * `/etc/smith/agent.toml`: read by both halves of the agent, checked whole before anything starts. An error names
 * the file, the line and the key, all errors at once; a key that is not known is an error, since a misspelt limit
 * that is silently ignored is worse than one that is refused.
 */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { isAbsolute } from 'node:path'
import { parse, TomlError } from 'smol-toml'
import * as v from 'valibot'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import { machineNameSchema, shortTextSchema } from '../protocol/ids.ts'
import { type Allow, parseWindow } from './apt/allow.ts'

export const AGENT_CONFIG_FILE = '/etc/smith/agent.toml'

const folder = v.pipe(
  v.string(),
  v.check((text) => isAbsolute(text), 'must be an absolute path'),
)
const secondsOf = (fallback: number, min = 0.01, max = 86_400) =>
  v.optional(
    v.pipe(
      v.number('must be a number of seconds'),
      v.minValue(min, `must be at least ${min}`),
      v.maxValue(max, `must be at most ${max}`),
    ),
    fallback,
  )
const bytesOf = (fallback: number) =>
  v.optional(
    v.pipe(
      v.number('must be a number of bytes'),
      v.integer('must be whole'),
      v.minValue(1024, 'must be at least 1024'),
    ),
    fallback,
  )

/** Every time bound in seconds. */
const limitsSchema = v.strictObject({
  /** A plan query as a whole: update and simulation. */
  plan: secondsOf(120),
  /** The runner's own update of the lists. */
  update: secondsOf(300),
  /** A download that gives no byte for so long is tried again, then fails. */
  fetch_stall: secondsOf(30, 1),
  fetch_retries: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(20)), 3),
  /** The download of all archives of one order. */
  fetch: secondsOf(3600),
  /** How long to wait for a lock of apt or dpkg that another program holds. */
  lock_wait: secondsOf(300, 0),
  /** One program of checks.d. */
  check: secondsOf(60),
  /** No line of output for so long in the install is noted, with the processes at work; nothing is killed. */
  quiet: secondsOf(900, 1),
  ping: secondsOf(15),
  dead: secondsOf(45),
  connect: secondsOf(10),
  reconnect_min: secondsOf(1),
  reconnect_max: secondsOf(60),
  /** How often the files of a run are looked at. */
  poll: secondsOf(0.2),
  /** How long the files of a finished order are kept. */
  keep: v.optional(v.pipe(v.number(), v.minValue(0)), 30 * 86_400),
  /** What a run may print; the rest is dropped, with a record that says how much. */
  output_bytes: bytesOf(64 * 1024 * 1024),
  /** What must stay free on a filesystem beyond what the plan needs. */
  free_bytes: bytesOf(64 * 1024 * 1024),
  /** How long services are given after the install before the machine's health is looked at. */
  settle: secondsOf(5, 0, 3600),
  /** What then is worse than before, and may come back by itself, is looked at again for so long. */
  health: secondsOf(30, 0, 3600),
  /** And for so long more when nothing is worse but that the machine is cut off from the coordinator. */
  offline: secondsOf(900, 0, 86_400),
  /** How long the coordinator has to acknowledge that a reboot is about to be done. */
  reboot_ack: secondsOf(300),
})

/** What the machine allows at all, whoever grants: only root writes this file. */
const allowSchema = v.strictObject({
  reboot: v.optional(v.picklist(['never', 'as-ordered']), 'as-ordered'),
  windows: v.optional(
    v.pipe(
      v.array(
        v.pipe(
          v.string(),
          v.check((text) => parseWindow(text) !== null, 'must be like "22:00-04:00" or "Mon-Fri,Sun 01:30-05:00"'),
        ),
      ),
      v.maxLength(64),
    ),
    [],
  ),
  min_days_between_runs: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(3650)), 0),
})

const runSchema = v.strictObject({
  mode: v.optional(v.picklist(['detached', 'systemd']), 'systemd'),
  /** A reboot is due when one of these files exists, too. */
  reboot_when: v.optional(v.pipe(v.array(folder), v.maxLength(64)), []),
})

export const DEFAULT_STATE_DIR = '/var/lib/smith'

const configSchema = v.strictObject({
  coordinator: v.optional(
    v.pipe(
      v.string('must be text'),
      v.check(
        (text) => URL.canParse(text) && new URL(text).protocol === 'https:',
        'must be an https URL, as in https://smith.example:7600',
      ),
    ),
  ),
  state_dir: v.optional(folder, DEFAULT_STATE_DIR),
  log_file: v.optional(folder, '/opt/smith-agent.log'),
  repos_dir: v.optional(folder, '/etc/smith/repos'),
  checks_dir: v.optional(folder, '/etc/smith/checks.d'),
  apt: v.optional(v.strictObject({ root: v.optional(folder) }), {}),
  identity: v.optional(
    v.strictObject({
      name: v.optional(machineNameSchema),
      cluster: v.optional(shortTextSchema),
      region: v.optional(shortTextSchema),
    }),
    {},
  ),
  limits: v.optional(limitsSchema, {}),
  run: v.optional(runSchema, {}),
  allow: v.optional(allowSchema, {}),
})

/** Durations in milliseconds, so that nothing past this file multiplies. */
export type AgentLimits = {
  readonly planMs: number
  readonly updateMs: number
  readonly fetchStallMs: number
  readonly fetchRetriesMax: number
  readonly fetchMs: number
  readonly lockWaitMs: number
  readonly checkMs: number
  readonly quietMs: number
  readonly pingMs: number
  readonly deadMs: number
  readonly connectMs: number
  readonly reconnectMsMin: number
  readonly reconnectMsMax: number
  readonly pollMs: number
  readonly keepMs: number
  readonly outputBytesMax: number
  readonly freeBytesMin: number
  readonly settleMs: number
  readonly healthMs: number
  readonly offlineMs: number
  readonly rebootAckMs: number
}

export type AgentConfig = {
  /** The file that it was read from; the runner is started with the same. */
  readonly file: string
  /** Null: the one that the machine was enrolled with. */
  readonly coordinator: string | null
  readonly stateDir: string
  readonly logFile: string
  readonly reposDir: string
  readonly checksDir: string
  /** A private package root, or null for the machine itself. */
  readonly aptRoot: string | null
  readonly identity: { readonly name: string; readonly cluster: string | null; readonly region: string | null }
  readonly limits: AgentLimits
  readonly runMode: 'detached' | 'systemd'
  /** Files whose presence makes a reboot due, besides what Debian itself has for that. */
  readonly rebootWhen: readonly string[]
  readonly allow: Allow
}

/** Reads and checks a configuration file; throws a RefusedError with everything that is wrong with it. */
export function readAgentConfig(file: string = AGENT_CONFIG_FILE): AgentConfig {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new RefusedError([
      refusalAt(
        `${file} can't be read: ${error instanceof Error ? error.message : String(error)}`,
        'Make the file, or one that you may read, or name another with --config FILE.',
      ),
    ])
  }
  const checked = checkAgentConfig(text, file)
  if ('refusals' in checked) throw new RefusedError(checked.refusals)
  return checked
}

/** The pure part: text in, configuration or every refusal out. */
export function checkAgentConfig(text: string, file: string): AgentConfig | { readonly refusals: readonly Refusal[] } {
  let value: unknown
  try {
    value = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const first = error.message.split('\n')[0] ?? error.message
    return { refusals: [refusalAt(`${file}:${error.line}: ${first}`, 'Write the file as TOML 1.0 (toml.io).')] }
  }
  const result = v.safeParse(configSchema, value)
  if (!result.success) return { refusals: result.issues.map((issue) => refusalOf(issue, text, file)) }
  return configOf(result.output, file)
}

function configOf(raw: v.InferOutput<typeof configSchema>, file: string): AgentConfig {
  const limits = v.parse(limitsSchema, raw.limits)
  const run = v.parse(runSchema, raw.run)
  const allow = v.parse(allowSchema, raw.allow)
  const ms = (seconds: number) => Math.round(seconds * 1000)
  return {
    file,
    coordinator: raw.coordinator ?? null,
    stateDir: raw.state_dir,
    logFile: raw.log_file,
    reposDir: raw.repos_dir,
    checksDir: raw.checks_dir,
    aptRoot: raw.apt.root ?? null,
    identity: {
      name: raw.identity.name ?? hostname().toLowerCase(),
      cluster: raw.identity.cluster ?? null,
      region: raw.identity.region ?? null,
    },
    limits: {
      planMs: ms(limits.plan),
      updateMs: ms(limits.update),
      fetchStallMs: ms(limits.fetch_stall),
      fetchRetriesMax: limits.fetch_retries,
      fetchMs: ms(limits.fetch),
      lockWaitMs: ms(limits.lock_wait),
      checkMs: ms(limits.check),
      quietMs: ms(limits.quiet),
      pingMs: ms(limits.ping),
      deadMs: ms(limits.dead),
      connectMs: ms(limits.connect),
      reconnectMsMin: ms(limits.reconnect_min),
      reconnectMsMax: ms(limits.reconnect_max),
      pollMs: ms(limits.poll),
      keepMs: ms(limits.keep),
      outputBytesMax: limits.output_bytes,
      freeBytesMin: limits.free_bytes,
      settleMs: ms(limits.settle),
      healthMs: ms(limits.health),
      offlineMs: ms(limits.offline),
      rebootAckMs: ms(limits.reboot_ack),
    },
    runMode: run.mode,
    rebootWhen: run.reboot_when,
    allow: {
      reboot: allow.reboot,
      windows: allow.windows.flatMap((text) => parseWindow(text) ?? []),
      daysBetweenRunsMin: allow.min_days_between_runs,
    },
  }
}

function refusalOf(issue: v.BaseIssue<unknown>, text: string, file: string): Refusal {
  const path = (issue.path ?? []).map((item) => String(item.key))
  const key = path.join('.')
  const line = lineOfKey(text, path)
  const isUnknown = issue.type === 'strict_object' && issue.expected === 'never'
  const isMissing = issue.type === 'strict_object' && issue.received === 'undefined'
  const says = isUnknown ? 'is not a key of this file' : isMissing ? 'is missing' : issue.message
  return {
    kind: isUnknown ? 'unknown-key' : 'bad-value',
    message: `${file}${line === null ? '' : `:${line}`}: ${key} ${says}`,
    subject: key,
    remedy: isUnknown
      ? `Remove ${key} or correct its spelling.`
      : isMissing
        ? `Add ${key} to ${file}.`
        : `Correct ${key} in ${file}.`,
  }
}

/** The line of a key, found in the text, since the parser keeps no positions; null when it isn't plain to see. */
function lineOfKey(text: string, path: readonly string[]): number | null {
  // An item of a list stands where the list begins.
  const wanted = path.filter((part) => !/^[0-9]+$/.test(part)).join('.')
  let table = ''
  for (const [index, line] of text.split('\n').entries()) {
    const header = /^\s*\[\s*([^\]]+?)\s*\]/.exec(line)
    if (header?.[1] !== undefined) {
      table = `${header[1].replaceAll(/["'\s]/g, '')}.`
      if (`${wanted}.` === table) return index + 1
    }
    const key = /^\s*([A-Za-z0-9_.\-"' ]+?)\s*=/.exec(line)?.[1]
    if (key !== undefined && `${table}${key.replaceAll(/["'\s]/g, '')}` === wanted) return index + 1
  }
  return null
}

function refusalAt(message: string, remedy: string): Refusal {
  return { kind: 'bad-value', message, remedy }
}

/**
 * The coordinator's configuration: TOML, checked whole at the start, so that no wrong value is met in the middle of
 * a night. config-fields.ts has every key with its check and default. All problems are named at once, with file, line
 * and key. There is no secret in it, and none is taken from argv or the environment.
 */
import { readFileSync } from 'node:fs'
import { TomlError, parse } from 'smol-toml'
import * as v from 'valibot'
import type { Refusal } from '../protocol/errors.ts'
import {
  CHANGE,
  CHAT,
  CLUSTERS,
  type Field,
  LIMITS,
  LISTEN_PATTERN,
  REGIONS,
  REGIONS_DEFAULT,
  SCHEDULE,
  SECTIONS,
  type Section,
  TOP,
  type ValuesOf,
  portOf,
} from './config-fields.ts'
import { parseUrl } from './client/target.ts'
import { lineOfKey } from './config-lines.ts'
import { LOOKUP, lookupName, lookupProblems, lookupSettings } from './config-lookup.ts'
import { TRAIN, trainProblems } from './config-trains.ts'
import { SERVICENOW, servicenowProblems, servicenowSettings } from './config-servicenow.ts'
import type { Settings } from './domain/events.ts'

export { CONFIG_REFERENCE, type ConfigEntry, configReferenceText } from './config-fields.ts'

export const CONFIG_PATH = '/etc/smith/coordinator.toml'

export type CoordinatorConfig = {
  readonly settings: Settings
  readonly instance: string
  readonly listen: { readonly host: string; readonly port: number }
  readonly stateDir: string
  readonly adminSocket: string
  readonly change:
    | { readonly provider: 'local' }
    | { readonly provider: 'servicenow'; readonly servicenow: ReturnType<typeof servicenowSettings> }
  /** Null where what is enrolled is what there is. */
  readonly lookup: ReturnType<typeof lookupSettings>
  /** Null without a bot. */
  readonly chat: ChatSettings | null
  readonly sockets: {
    readonly pingMs: number
    readonly deadMs: number
    readonly authDeadlineMs: number
    readonly unauthenticatedMax: number
    readonly unauthenticatedPerAddressMax: number
    readonly sendBytesMax: number
  }
  readonly reports: { readonly keepMs: number; readonly bytesMax: number }
  readonly feed: { readonly clientsMax: number }
  readonly dashboard: { readonly sessionMsMax: number }
}

export type ChatSettings = {
  readonly name: string
  readonly apiUrl: string
  readonly appTokenFile: string
  readonly botTokenFile: string
  readonly logChannel: string | null
  readonly confirmAbove: number
  readonly people: Readonly<Record<string, string>>
  readonly instances: readonly {
    readonly name: string
    readonly host: string
    readonly port: number
    readonly pin: string
    readonly tokenFile: string
  }[]
}

export type ConfigAnswer =
  | { readonly ok: true; readonly config: CoordinatorConfig }
  | { readonly ok: false; readonly refusals: readonly Refusal[] }

/** Reads and checks the configuration file. */
export function loadConfig(file: string = CONFIG_PATH): ConfigAnswer {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    const remedy = `write ${file} with at least the line: instance = "prod", or name another file with --config FILE`
    return {
      ok: false,
      refusals: [{ kind: 'unavailable', message: `can't read the configuration: ${problem}`, subject: file, remedy }],
    }
  }
  return parseConfig(text, file)
}

/** Checks the text of a configuration file whole; `file` is its name in the messages. */
export function parseConfig(text: string, file: string): ConfigAnswer {
  let document: Record<string, unknown>
  try {
    document = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const summary = error.message.split('\n')[0] ?? ''
    const refusal: Refusal = {
      kind: 'syntax',
      message: `${file}:${error.line}: ${summary}`,
      subject: file,
      remedy: 'write TOML: key = value, and [section] lines',
    }
    return { ok: false, refusals: [refusal] }
  }
  const reader = readerOf(text, file)
  const top = reader.section('', TOP, document)
  const change = reader.section('change', CHANGE, document)
  const servicenow = reader.section('change.servicenow', SERVICENOW, document)
  if (change?.provider === 'servicenow' && servicenow !== null)
    for (const problem of servicenowProblems(servicenow)) reader.refuse(...problem)
  const lookup = reader.section('lookup', LOOKUP, document)
  if (lookup !== null) for (const problem of lookupProblems(lookup)) reader.refuse(...problem)
  const chat = own(document, 'chat') === undefined ? null : reader.section('chat', CHAT, document)
  const clusters = reader.section('clusters', CLUSTERS, document)
  const schedule = reader.section('schedule', SCHEDULE, document)
  const limits = reader.section('limits', LIMITS, document)
  const { regions } = reader.regions(document)
  const trains = reader.tables('trains', TRAIN, document)
  for (const problem of trainProblems(trains, change?.provider ?? 'local')) reader.refuse(...problem)
  if (limits !== null && limits.dead < 2 * limits.ping) {
    reader.refuse(
      'limits.dead',
      `is ${limits.dead} with limits.ping at ${limits.ping}`,
      'give limits.dead at least twice limits.ping',
    )
  }
  if (
    reader.refusals.length > 0 ||
    top === null ||
    change === null ||
    servicenow === null ||
    lookup === null ||
    clusters === null ||
    schedule === null ||
    limits === null ||
    regions === null
  ) {
    return { ok: false, refusals: reader.refusals }
  }
  return {
    ok: true,
    config: configOf({ top, change, servicenow, lookup, chat, clusters, schedule, limits, regions, trains }),
  }
}

type Values = {
  readonly top: ValuesOf<typeof TOP>
  readonly change: ValuesOf<typeof CHANGE>
  readonly servicenow: ValuesOf<typeof SERVICENOW>
  readonly lookup: ValuesOf<typeof LOOKUP>
  readonly chat: ValuesOf<typeof CHAT> | null
  readonly clusters: ValuesOf<typeof CLUSTERS>
  readonly schedule: ValuesOf<typeof SCHEDULE>
  readonly limits: ValuesOf<typeof LIMITS>
  readonly regions: Readonly<Record<string, string>>
  readonly trains: readonly ValuesOf<typeof TRAIN>[]
}

const ms = (value: number) => Math.round(value * 1000)

function configOf(values: Values): CoordinatorConfig {
  const { top, change, servicenow, chat, clusters, schedule, limits, regions, trains } = values
  const lookup = lookupSettings(values.lookup)
  const [, bracketed, host] = LISTEN_PATTERN.exec(top.listen) ?? []
  return {
    settings: {
      instance: top.instance,
      ...(lookup === null ? {} : { lookup: lookupName(lookup) }),
      regions: Object.entries({ ...regions, ...withoutKeysOf(REGIONS_DEFAULT, regions) }).map(([part, region]) => ({
        pattern: regionPattern(part),
        region,
      })),
      clusters: clusters.patterns.map((pattern) => ({ pattern })),
      trains,
      approval: {
        requesterMayApprove: change.requester_may_approve,
        localAdminMayApprove: change.local_admin_may_approve,
      },
      schedule: {
        timezone: schedule.timezone,
        windows: schedule.windows,
        blackouts: schedule.blackouts,
        runMsExpected: ms(schedule.run_expected),
      },
      limits: {
        machinesPerRequestMax: limits.machines_per_request,
        plansInParallelMax: limits.plans_in_parallel,
        prefetchAheadMax: limits.prefetch_ahead,
        planTimeMsMax: ms(limits.plan_max),
        waitMsMax: ms(limits.wait_max),
        silenceMsMax: ms(limits.silence_max),
        grantLifeMs: ms(limits.grant_life),
        permissionAgeMsMax: ms(limits.permission_age_max),
        permissionRetryMs: ms(limits.permission_retry),
        changePollMs: ms(limits.change_poll),
      },
    },
    instance: top.instance,
    listen: { host: bracketed ?? host ?? '', port: portOf(top.listen) },
    stateDir: top.state_dir,
    adminSocket: top.admin_socket,
    change:
      change.provider === 'local'
        ? { provider: 'local' }
        : { provider: 'servicenow', servicenow: servicenowSettings(servicenow) },
    lookup,
    chat: chat === null ? null : chatOf(chat),
    sockets: {
      pingMs: ms(limits.ping),
      deadMs: ms(limits.dead),
      authDeadlineMs: ms(limits.auth_deadline),
      unauthenticatedMax: limits.unauthenticated,
      unauthenticatedPerAddressMax: limits.unauthenticated_per_address,
      sendBytesMax: limits.send_bytes,
    },
    reports: { keepMs: ms(limits.report_keep), bytesMax: limits.report_bytes },
    feed: { clientsMax: limits.feed_clients },
    dashboard: { sessionMsMax: ms(limits.dashboard_session) },
  }
}

function chatOf(chat: ValuesOf<typeof CHAT>): ChatSettings {
  return {
    name: chat.name,
    apiUrl: chat.api_url,
    appTokenFile: chat.app_token_file,
    botTokenFile: chat.bot_token_file,
    logChannel: chat.log_channel === '' ? null : chat.log_channel,
    confirmAbove: chat.confirm_above,
    people: chat.people,
    instances: Object.entries(chat.instances).map(([name, { url, pin, token_file: tokenFile }]) => ({
      name,
      ...(parseUrl(url) ?? { host: '', port: 0 }),
      pin,
      tokenFile,
    })),
  }
}

function withoutKeysOf(
  table: Readonly<Record<string, string>>,
  taken: Readonly<Record<string, string>>,
): Record<string, string> {
  return Object.fromEntries(Object.entries(table).filter(([key]) => !Object.hasOwn(taken, key)))
}

/** A part of a name between its separators, with the digits that may follow: dal is found in prod-dal10-web-1. */
function regionPattern(part: string): string {
  return `(?:^|[-.])${part}[0-9]*(?:[-.]|$)`
}

type Reader = {
  readonly refusals: readonly Refusal[]
  readonly refuse: (key: string, problem: string, remedy: string) => void
  readonly section: <Fields extends Section>(
    name: string,
    fields: Fields,
    document: Record<string, unknown>,
  ) => ValuesOf<Fields> | null
  /** The tables of a list, `[[name]]`; those with problems are left out. */
  readonly tables: <Fields extends Section>(
    name: string,
    fields: Fields,
    document: Record<string, unknown>,
  ) => ValuesOf<Fields>[]
  readonly regions: (document: Record<string, unknown>) => { readonly regions: Record<string, string> | null }
}

function readerOf(text: string, file: string): Reader {
  const refusals: Refusal[] = []
  const refuse = (key: string, problem: string, remedy: string, kind: Refusal['kind'] = 'bad-value') => {
    const line = lineOfKey(text, key.split('.'))
    refusals.push({
      kind,
      message: `${file}${line === null ? '' : `:${line}`}: ${key} ${problem}`,
      subject: key,
      remedy,
    })
  }
  const refuseUnknown = (section: string, given: Record<string, unknown>, known: readonly string[]) => {
    const prefix = section === '' ? '' : `${section}.`
    for (const key of Object.keys(given).filter((name) => !known.includes(name))) {
      const near = nearestOf(key, known)
      const remedy = near === null ? `known here: ${known.join(', ')}` : `did you mean ${prefix}${near}?`
      refuse(prefix + key, 'is no key of the configuration', remedy, 'unknown-key')
    }
  }
  const readField = (key: string, entry: Field<unknown>, given: unknown): unknown => {
    if (given === undefined) {
      if (entry.fallback === undefined) refuse(key, 'is missing', `give ${entry.accepted}`)
      return entry.fallback
    }
    const result = v.safeParse(entry.schema, given)
    if (!result.success) refuse(key, `can't be ${shown(given)}`, `give ${entry.accepted}`)
    return result.output
  }
  const section = <Fields extends Section>(
    name: string,
    fields: Fields,
    document: Record<string, unknown>,
  ): ValuesOf<Fields> | null => tableOf(name, fields, name === '' ? document : (tableAt(document, name) ?? {}))
  const tables = <Fields extends Section>(
    name: string,
    fields: Fields,
    document: Record<string, unknown>,
  ): ValuesOf<Fields>[] => {
    const given = own(document, name) ?? []
    if (!Array.isArray(given)) refuse(name, `can't be ${shown(given)}`, `write a list of sections: [[${name}]]`)
    const read = Array.isArray(given)
      ? given.map((table: unknown, index) => tableOf(`${name}.${index + 1}`, fields, table))
      : []
    return read.filter((values) => values !== null)
  }
  const tableOf = <Fields extends Section>(name: string, fields: Fields, given: unknown): ValuesOf<Fields> | null => {
    if (!isTable(given)) {
      refuse(name, `can't be ${shown(given)}`, `write a section: [${name}]`)
      return null
    }
    refuseUnknown(name, given, [...Object.keys(fields), ...subsectionsOf(name)])
    const before = refusals.length
    const values = Object.fromEntries(
      Object.entries(fields).map(([key, entry]) => [
        key,
        readField(name === '' ? key : `${name}.${key}`, entry, own(given, key)),
      ]),
    )
    return refusals.length === before ? (values as ValuesOf<Fields>) : null
  }
  const regions = (document: Record<string, unknown>) => {
    const values = readField('regions', REGIONS.regions, own(document, 'regions'))
    return { regions: isTable(values) ? (values as Record<string, string>) : null }
  }
  return { refusals, refuse, section, tables, regions }
}

/** The table of a section; its name may be a path (`change.servicenow`). What is no table on the way is told by its own section. */
function tableAt(document: Record<string, unknown>, name: string): unknown {
  return name.split('.').reduce<unknown>((table, part) => (isTable(table) ? own(table, part) : undefined), document)
}

function subsectionsOf(name: string): string[] {
  const names = [...Object.keys(SECTIONS), ...(name === '' ? [...Object.keys(REGIONS), 'trains'] : [])].filter(
    (one) => one !== '',
  )
  return name === ''
    ? names.filter((one) => !one.includes('.'))
    : names.filter((one) => one.startsWith(`${name}.`)).map((one) => one.slice(name.length + 1))
}

const own = (table: Record<string, unknown>, key: string) => (Object.hasOwn(table, key) ? table[key] : undefined)

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)
}

function shown(value: unknown): string {
  const text =
    JSON.stringify(value, (_, item: unknown) => (typeof item === 'bigint' ? String(item) : item)) ?? String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

/** The known name that is fewest edits away, when that is near enough to be meant. */
function nearestOf(word: string, known: readonly string[]): string | null {
  const ranked = known
    .map((name) => ({ name, edits: editsBetween(word.toLowerCase(), name) }))
    .toSorted((a, b) => a.edits - b.edits)
  const best = ranked[0]
  return best !== undefined && best.edits <= Math.max(2, Math.floor(word.length / 3)) ? best.name : null
}

/** Levenshtein's distance, row by row. */
function editsBetween(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (const [index, letter] of left.split('').entries()) {
    const next = [index + 1]
    for (const [place, other] of right.split('').entries()) {
      const swap = (row[place] ?? 0) + (letter === other ? 0 : 1)
      next.push(Math.min(swap, (row[place + 1] ?? 0) + 1, (next[place] ?? 0) + 1))
    }
    row = next
  }
  return row.at(-1) ?? 0
}

/**
 * Every key of the coordinator's configuration, once: its check, its default and what a person reads about it. The
 * reading (config.ts), the error messages and CONFIG_REFERENCE all come from here, so none can drift from another.
 */
import { RE2JS } from 're2js'
import * as v from 'valibot'
import { isTimezone } from './calendar.ts'
import {
  SECRET_ACCEPTED,
  type Section,
  field,
  flag,
  isSecretPath,
  path,
  rules,
  seconds,
  whole,
} from './config-kinds.ts'
import { LOOKUP } from './config-lookup.ts'
import { SERVICENOW } from './config-servicenow.ts'
import { parseUrl } from './client/target.ts'
import { PIN_PATTERN } from '../protocol/pin.ts'
import { TRAIN } from './config-trains.ts'

export type { Field, Section, ValuesOf } from './config-kinds.ts'

/** A socket's address: host and port, an IPv6 address in brackets. */
export const LISTEN_PATTERN = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})$/
export const portOf = (text: string) => Number(LISTEN_PATTERN.exec(text)?.[3] ?? Number.NaN)

const hasOneGroup = (pattern: string): boolean => {
  try {
    return RE2JS.compile(pattern).groupCount() === 1
  } catch {
    // Whatever is wrong with the pattern, the answer is the same: it is not one that is accepted.
    return false
  }
}

/** Regions by the part of a name that tells them. */
export const REGIONS_DEFAULT = {
  dal: 'us-south',
  wdc: 'us-east',
  lon: 'uk-south',
  fra: 'eu-central',
  syd: 'ap-south',
  tok: 'ap-north',
}
const REGION_NAME = v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9-]{0,62}$/))
const REGION_PART = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/

export const TOP = {
  instance: field(
    'The name of this coordinator, as chat and CLI say it: dev, prod, ...',
    'a short name: lower-case letters, digits and -',
    v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9-]{0,31}$/)),
  ),
  listen: field(
    'Where agents and people connect (TLS); port 0 takes a free one.',
    'host:port, an IPv6 address in brackets',
    v.pipe(
      v.string(),
      v.regex(LISTEN_PATTERN),
      v.check((text) => portOf(text) <= 65_535),
    ),
    '0.0.0.0:7600',
  ),
  state_dir: path('Where the database and the keys lie; a local disk.', '/var/lib/smith-coordinator'),
  admin_socket: path(
    'The socket of the local administrator: users, enrolment, backup, freeze.',
    '/run/smith-coordinator/admin.sock',
  ),
}
export const CHANGE = {
  provider: field(
    'Where change requests are raised and approved: in smith itself, or in ServiceNow (see change.servicenow).',
    '"local" or "servicenow"',
    v.picklist(['local', 'servicenow'] as const),
    'local',
  ),
  requester_may_approve: flag('Whether a person may approve what they asked for themselves.', false),
  local_admin_may_approve: flag(
    'Whether the admin socket, which has no person behind it, may approve. For a laboratory only.',
    false,
  ),
}
export const CLUSTERS = {
  patterns: field(
    "Regular expressions (RE2) with one group; what it captures in a machine's name is the cluster. The first that matches wins.",
    'a list of regular expressions (RE2), each with exactly one group',
    v.pipe(v.array(v.pipe(v.string(), v.check(hasOneGroup))), v.readonly()),
    [] as readonly string[],
  ),
}
const secretPath = v.pipe(v.string(), v.check(isSecretPath))
/** Read only where there is a `[chat]`. */
export const CHAT = {
  name: field(
    'How people call the bot.',
    'a short name',
    v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,40}$/)),
    'smith',
  ),
  app_token_file: field("The file of Slack's app-level token (xapp-...).", SECRET_ACCEPTED, secretPath),
  bot_token_file: field("The file of Slack's bot token (xoxb-...).", SECRET_ACCEPTED, secretPath),
  log_channel: field(
    'The channel with a thread for each machine, by its id; "" for none. The bot must be a member.',
    'the id of a channel such as "C0123456789", or ""',
    v.pipe(v.string(), v.regex(/^([CG][A-Z0-9]{2,})?$/)),
    '',
  ),
  confirm_above: whole('A request of more machines than this is confirmed with a button before it is raised.', 3, {
    min: 0,
    max: 100_000,
  }),
  people: field(
    'Who a Slack user is in smith: U0123456789 = "ann". Who is not named here may do nothing.',
    "ids of Slack users = names of smith's people",
    v.record(v.pipe(v.string(), v.regex(/^[UW][A-Z0-9]{2,}$/)), v.pipe(v.string(), v.minLength(1))),
    {},
  ),
  instances: field(
    'The instances that the bot asks, in this order: [chat.instances.NAME] with url, pin, and token_file, the file of a token with the role bot there.',
    'for each instance url = "https://HOST:7600", pin = "..." and token_file = "..."',
    v.pipe(
      v.record(
        v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9-]{0,31}$/)),
        v.strictObject({
          url: v.pipe(
            v.string(),
            v.check((text) => parseUrl(text) !== null),
          ),
          pin: v.pipe(v.string(), v.regex(PIN_PATTERN)),
          token_file: secretPath,
        }),
      ),
      v.check((table) => Object.keys(table).length > 0),
    ),
  ),
  api_url: field(
    "Slack's Web API, for those who have one of their own (GovSlack).",
    'a URL that ends in /',
    v.pipe(v.string(), v.regex(/^https?:\/\/[^\s]+\/$/)),
    'https://slack.com/api/',
  ),
}
export const SCHEDULE = {
  timezone: field(
    'The time zone in which the rules here and the times of requests are read, and times are shown.',
    'a time zone such as "UTC" or "Europe/Berlin"',
    v.pipe(v.string(), v.check(isTimezone)),
    'UTC',
  ),
  windows: rules('When machines may be granted; none means always. A run that has begun is never ended by it.'),
  blackouts: rules('When no machine is granted, whatever the windows say.'),
  run_expected: seconds(
    'How long a machine is expected to take before one of its project has passed; the declared outage is added. Nothing is granted that would not end within the window.',
    900,
    { min: 1, max: 86_400 },
  ),
}
export const LIMITS = {
  machines_per_request: whole('Machines that one request may name.', 1000, { min: 1, max: 100_000 }),
  plans_in_parallel: whole('Machines that plan at the same time.', 32, { min: 1, max: 10_000 }),
  prefetch_ahead: whole('Machines after the present one that download what their plan names.', 3, {
    min: 0,
    max: 1000,
  }),
  plan_max: seconds('A machine that has not planned by then is taken as unable to.', 120, { min: 0.1, max: 3600 }),
  wait_max: seconds(
    'A wait longer than this becomes a hold, which a person lifts. Never applies to a shut window.',
    600,
    { min: 0.1, max: 604_800 },
  ),
  silence_max: seconds('An order whose machine has been out of reach this long is unknown, and blocks.', 90, {
    min: 0.1,
    max: 86_400,
  }),
  grant_life: seconds('A grant that was not claimed by then is void on the machine.', 600, { min: 1, max: 600 }),
  permission_age_max: seconds('The oldest answer of the change provider that still permits a grant.', 10, {
    min: 0.1,
    max: 10,
  }),
  permission_retry: seconds('Between two questions to a change provider that did not answer.', 10, {
    min: 0.05,
    max: 3600,
  }),
  change_poll: seconds('Between two looks at a change that waits for approval.', 15, { min: 0.05, max: 3600 }),
  ping: seconds('Between two pings on a quiet connection.', 15, { min: 0.05, max: 300 }),
  dead: seconds('A connection without a sign of life for this long is closed; at least twice `ping`.', 45, {
    min: 0.1,
    max: 900,
  }),
  auth_deadline: seconds('A connection that has not proved who it is by then is closed.', 5, { min: 0.05, max: 60 }),
  unauthenticated: whole('Connections that have not yet proved who they are, in all.', 512, { min: 1, max: 100_000 }),
  unauthenticated_per_address: whole('The same, from one address.', 64, { min: 1, max: 100_000 }),
  send_bytes: whole('Bytes that may wait to be sent to one agent; more closes its connection.', 1_048_576, {
    min: 1_048_576,
    max: 1_073_741_824,
  }),
  report_keep: seconds('How long the health reports of machines are kept.', 2_592_000, { min: 60, max: 31_536_000 }),
  report_bytes: whole('Bytes that they may take in all; the oldest go first.', 1_073_741_824, {
    min: 16_777_216,
    max: 999_999_999_999,
  }),
  feed_clients: whole('Clients of the feed at once.', 256, { min: 1, max: 100_000 }),
  dashboard_session: seconds('How long a person stays logged in to the dashboard.', 43_200, { min: 1, max: 604_800 }),
}
export const REGIONS = {
  regions: field(
    'Regions by the part of a machine\'s name that tells them: `dal = "us-south"` is for prod-dal10-web-1. Adds to the defaults, and replaces those of the same part.',
    'a name part (lower-case letters, digits, -) = a region name',
    v.pipe(
      v.record(v.string(), REGION_NAME),
      v.check((table) => Object.keys(table).every((part) => REGION_PART.test(part))),
    ),
    REGIONS_DEFAULT as Record<string, string>,
  ),
}

/** Every section by its name; '' is what stands before the first one. */
export const SECTIONS: { readonly [section: string]: Section } = {
  '': TOP,
  change: CHANGE,
  'change.servicenow': SERVICENOW,
  lookup: LOOKUP,
  chat: CHAT,
  clusters: CLUSTERS,
  schedule: SCHEDULE,
  limits: LIMITS,
}

export type ConfigEntry = {
  readonly key: string
  /** As it would be written in the file; null for a key that must be given. */
  readonly fallback: string | null
  readonly accepted: string
  readonly about: string
}

/** Every key with its default and meaning, for --help and the documentation. */
export const CONFIG_REFERENCE: readonly ConfigEntry[] = [
  ...Object.entries(SECTIONS),
  ['', REGIONS] as const,
  ['trains', TRAIN] as const,
].flatMap(([section, fields]) =>
  Object.entries(fields).map(([key, entry]) => ({
    key: section === '' ? key : `${section}.${key}`,
    fallback: entry.fallback === undefined ? null : tomlOf(entry.fallback),
    accepted: entry.accepted,
    about: entry.about,
  })),
)

function tomlOf(value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return JSON.stringify(value)
  return `{ ${Object.entries(value)
    .map(([key, entry]) => `${key} = ${JSON.stringify(entry)}`)
    .join(', ')} }`
}

/** The reference as text, one paragraph a key. */
export function configReferenceText(): string {
  return CONFIG_REFERENCE.map((entry) => {
    const standard = entry.fallback === null ? 'must be given' : `default ${entry.fallback}`
    return `${entry.key}\n    ${entry.about}\n    ${entry.accepted}; ${standard}\n`
  }).join('\n')
}

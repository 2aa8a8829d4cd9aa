/** The keys of `[lookup]`: which machines there are, and what is asked for it. Which fit together is checked here too. */
import { isAbsolute } from 'node:path'
import * as v from 'valibot'
import { type ValuesOf, field, seconds, whole } from './config-kinds.ts'

const URL_PATTERN = /^(https?:\/\/(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:\/[\x21\x24-\x7e]*)?|)$/
const ON_THIS_COMPUTER = /^http:\/\/(127\.0\.0\.1|localhost|\[::1\])[:/]|^http:\/\/(127\.0\.0\.1|localhost|\[::1\])$/
const FILTERS = ['site', 'role', 'tenant', 'platform', 'status', 'tag'] as const
const SLUG = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,100}$/))

const file = (about: string) =>
  field(
    about,
    'an absolute path, or ""',
    v.pipe(
      v.string(),
      v.check((given) => given === '' || (isAbsolute(given) && !given.includes('\0'))),
    ),
    '',
  )

export const LOOKUP = {
  source: field(
    'What says which machines there are: the enrolled ones, a file, a list over HTTP, or NetBox. Lists are JSON: names, ansible-inventory --list, Prometheus http_sd.',
    '"enrolled", "file", "http" or "netbox"',
    v.picklist(['enrolled', 'file', 'http', 'netbox'] as const),
    'enrolled',
  ),
  file: file('The file with the list.'),
  url: field(
    'The address of the list, or of NetBox without /api.',
    '"https://HOST/..." (http:// only without a token, or on this computer)',
    v.pipe(v.string(), v.regex(URL_PATTERN)),
    '',
  ),
  user: field(
    'The name for a list that wants a name and password; then the token is the password.',
    'a text without a colon',
    v.pipe(v.string(), v.regex(/^[^:\p{Cc}]{0,100}$/u)),
    '',
  ),
  token_file: file('The token: a file that only smith-coordinator may read. For NetBox one that may only read.'),
  ca_file: file("Certificates (PEM) of the site's own authority, trusted instead of the system's."),
  objects: field(
    'NetBox: what is read.',
    'a list of "devices" and "virtual-machines"',
    v.pipe(v.array(v.picklist(['devices', 'virtual-machines'] as const)), v.minLength(1), v.readonly()),
    ['devices', 'virtual-machines'] as readonly ('devices' | 'virtual-machines')[],
  ),
  filters: field(
    'NetBox: only these, by slug; several of a name are alternatives, several tags are all wanted.',
    `a table of ${FILTERS.join(', ')}, each = ["slug"]`,
    v.record(v.picklist(FILTERS), v.pipe(v.array(SLUG), v.minLength(1), v.readonly())),
    {},
  ),
  statuses: field(
    'NetBox: the statuses in which a machine may be patched.',
    'a list of statuses',
    v.pipe(v.array(SLUG), v.minLength(1), v.readonly()),
    ['active'] as readonly string[],
  ),
  domains: field(
    'Domains that are taken off names, where agents are enrolled without them.',
    'a list of domains such as "example.com"',
    v.pipe(v.array(v.pipe(v.string(), v.regex(/^[a-z0-9-]+(\.[a-z0-9-]+)*$/))), v.readonly()),
    [] as readonly string[],
  ),
  page: whole('NetBox: records asked for at a time.', 1000, { min: 1, max: 1000 }),
  machines: whole('Machines that a source may name; more is taken for a mistake.', 100_000, { min: 1, max: 1_000_000 }),
  bytes: whole('Bytes of one answer or of the file.', 67_108_864, { min: 1024, max: 1_073_741_824 }),
  timeout: seconds('For one answer of the source.', 10, { min: 0.05, max: 300 }),
  total: seconds('For a whole lookup.', 30, { min: 0.05, max: 600 }),
}

type LookupValues = ValuesOf<typeof LOOKUP>

/** What must be given and is not, or does not fit: key, problem and remedy of each. */
export function lookupProblems(given: LookupValues): readonly (readonly [string, string, string])[] {
  const problems: [string, string, string][] = []
  const { source, url } = given
  if (source === 'file' && given.file === '')
    problems.push(['lookup.file', 'is missing', 'give the file with the list, or another source'])
  if ((source === 'http' || source === 'netbox') && url === '')
    problems.push(['lookup.url', 'is missing', 'give url = "https://HOST/...", or another source'])
  if (source === 'netbox' && given.token_file === '')
    problems.push([
      'lookup.token_file',
      'is missing',
      'give a file with a token that may read devices and virtual machines',
    ])
  if (given.user !== '' && (given.token_file === '' || source === 'netbox'))
    problems.push([
      'lookup.user',
      'fits no source but "http" with a token_file',
      'leave it out, or give the password as token_file',
    ])
  if (source !== 'netbox')
    for (const key of ['filters', 'objects'] as const)
      if (JSON.stringify(given[key]) !== JSON.stringify(LOOKUP[key].fallback))
        problems.push([`lookup.${key}`, 'fits NetBox only', 'leave it out, or set source = "netbox"'])
  if (source === 'netbox' && url.includes('?'))
    problems.push([
      'lookup.url',
      'has a query',
      'give the address of NetBox alone; lookup.filters narrows what is read',
    ])
  if (given.token_file !== '' && url.startsWith('http:') && !ON_THIS_COMPUTER.test(url))
    problems.push(['lookup.url', 'would carry the token over the network in clear text', 'give url = "https://..."'])
  if (given.total < given.timeout)
    problems.push(['lookup.total', `is below timeout (${given.timeout})`, 'give at least timeout'])
  return problems
}

const ms = (value: number) => Math.round(value * 1000)

/** As lookup/ reads it; null where what is enrolled is what there is. */
export function lookupSettings(given: LookupValues) {
  if (given.source === 'enrolled') return null
  return {
    source: given.source,
    file: given.file,
    url: given.url,
    user: given.user,
    tokenFile: given.token_file,
    caFile: given.ca_file,
    objects: given.objects,
    filters: given.filters,
    statuses: given.statuses,
    domains: given.domains,
    pageSize: given.page,
    machinesMax: given.machines,
    bytesMax: given.bytes,
    timeoutMs: ms(given.timeout),
    totalMsMax: ms(given.total),
  }
}

/** How a person names the source; a query may hold a secret and is left out. */
export function lookupName(settings: NonNullable<ReturnType<typeof lookupSettings>>): string {
  const { source, file: path, url } = settings
  if (source === 'file') return path
  return `${source === 'netbox' ? 'NetBox' : 'the list'} at ${url.split('?')[0] ?? url}`
}

/**
 * Everything that NetBox has of devices and virtual machines, page by page. The whole list is read, since names are
 * ambiguous only among all of them; NetBox's own filters narrow it, and each record is held against them again.
 */
import { type AskPorts, type Left, askJson } from './ask.ts'
import { LookupError, isTable, quoted } from './failure.ts'
import type { Given } from './names.ts'
import { filterMissed, recordOf } from './netbox-record.ts'
import type { ObjectKind } from './settings.ts'

const KINDS = {
  devices: { path: '/api/dcim/devices/', name: 'device' },
  'virtual-machines': { path: '/api/virtualization/virtual-machines/', name: 'virtual machine' },
} as const
/** What a link to the next page may change; all else stays as we asked. */
const PAGING = ['limit', 'offset', 'start'] as const
const ODD = 'see that the address is that of NetBox, and that nothing between changes its answers'

export async function netboxMachines(ports: AskPorts, left: Left): Promise<Given[]> {
  const found: Given[] = []
  for (const kind of ports.settings.objects) found.push(...(await readAll(ports, kind, left)))
  return found
}

async function readAll(ports: AskPorts, kind: ObjectKind, left: Left): Promise<Given[]> {
  const { settings } = ports
  const { path, name } = KINDS[kind]
  const found = new Map<number, Given | null>()
  let url: URL | null = firstPage(ports, path)
  let total: number | null = null
  let isFirst = true
  while (url !== null) {
    const page = pageOf(await askJson(ports, url, left), path)
    if (isFirst) total = page.count
    else if (page.count !== null && page.count !== total) throw changed(path)
    isFirst = false
    const before = found.size
    for (const record of page.results) {
      const missed = filterMissed(record, settings.filters)
      if (missed !== null)
        throw new LookupError(
          `answers with a record that does not fit the filter ${missed}: ${quoted(record)}`,
          'NetBox ignores filters that it does not know: see lookup.filters',
        )
      const { key, given } = recordOf(record, name, settings.statuses)
      if (found.has(key)) throw changed(path)
      found.set(key, given)
    }
    if (found.size > settings.machinesMax)
      throw new LookupError(
        `has more than ${settings.machinesMax} records`,
        'narrow it with lookup.filters, or raise lookup.machines',
      )
    if (page.next !== null && found.size === before)
      throw new LookupError(`gives empty pages of ${path} without an end`, ODD)
    url = page.next === null ? null : nextPage(url, page.next)
  }
  if (total !== null && found.size !== total)
    throw new LookupError(
      `gives ${found.size} of ${total} records of ${path}`,
      'ask again; it may have changed while it was read',
    )
  return [...found.values()].filter((given) => given !== null)
}

const changed = (path: string) => new LookupError(`changed while ${path} was read`, 'ask again')

function firstPage({ settings }: AskPorts, path: string): URL {
  const url = new URL(settings.url.replace(/\/+$/, '') + path)
  // By id, a record that is added or renamed meanwhile moves no other to a page that was read already.
  const query = { limit: String(settings.pageSize), offset: '0', ordering: 'id', exclude: 'config_context' }
  for (const [key, value] of Object.entries(query)) url.searchParams.set(key, value)
  for (const [key, values] of Object.entries(settings.filters))
    for (const value of values) url.searchParams.append(key, value)
  return url
}

/** The link is made from what a proxy calls the host, so only its paging counts: the origin and the filters stay ours. */
function nextPage(url: URL, next: string): URL {
  const given = URL.parse(next, url.href)
  const made = new URL(url)
  for (const key of PAGING) {
    made.searchParams.delete(key)
    const value = given?.searchParams.get(key)
    if (value != null) made.searchParams.set(key, value)
  }
  if (made.searchParams.has('start')) made.searchParams.delete('ordering')
  if (given === null || PAGING.every((key) => made.searchParams.get(key) === url.searchParams.get(key)))
    throw new LookupError(`gives no way to its next page: ${quoted(next)}`, ODD)
  return made
}

function pageOf(body: unknown, path: string) {
  const { count, next, results } = isTable(body) ? body : {}
  if (
    !Array.isArray(results) ||
    !(count === null || Number.isSafeInteger(count)) ||
    !(next === null || typeof next === 'string')
  )
    throw new LookupError(`answers ${path} with no page of a list: ${quoted(body)}`, ODD)
  return { count: count as number | null, next, results: results as readonly unknown[] }
}

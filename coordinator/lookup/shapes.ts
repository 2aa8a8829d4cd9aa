/**
 * The lists that sites already have, told apart by their shape: names or machines as plain JSON, what
 * `ansible-inventory --list` prints, Prometheus http_sd and file_sd, a page of NetBox saved to a file. Pure. A list of
 * which a part is not understood is refused whole: what is left out would be taken for a machine that is not there.
 */
import { LookupError, isTable, quoted } from './failure.ts'
import { type Given, bareHost } from './names.ts'
import { recordOf } from './netbox-record.ts'

const REMEDY =
  'give a JSON list of names or of {"name", "address"}, the output of ansible-inventory --list, a Prometheus http_sd list, or a whole NetBox page'

/** `statuses` are those in which a machine of NetBox may be patched. */
export function machinesIn(document: unknown, statuses: readonly string[]): Given[] {
  if (Array.isArray(document)) return inList(document)
  if (isTable(document) && Array.isArray(document['results']) && 'count' in document) return inPage(document, statuses)
  if (isTable(document) && isAnsible(document)) return inAnsible(document)
  throw new LookupError(`has a shape that smith does not know: ${quoted(document)}`, REMEDY)
}

function inList(list: readonly unknown[]): Given[] {
  if (list.every((one) => typeof one === 'string')) return list.map((name) => ({ id: name, name }))
  if (list.every((one) => isTable(one) && 'targets' in one)) return list.flatMap(inTargets)
  return list.map((one, index) => {
    if (!isTable(one) || typeof one['name'] !== 'string' || one['name'] === '')
      throw new LookupError(`has at place ${index + 1} no name of a machine: ${quoted(one)}`, REMEDY)
    const addresses = [one['address'], one['addresses']].flat().filter((address) => address != null)
    if (!addresses.every((address) => typeof address === 'string'))
      throw new LookupError(`has no text as the address of ${quoted(one['name'])}`, REMEDY)
    const id =
      typeof one['id'] === 'string' || typeof one['id'] === 'number' ? `${one['name']} ${one['id']}` : one['name']
    return { id, name: one['name'], addresses }
  })
}

/** One host has many exporters: the port says nothing about the machine. */
function inTargets(group: unknown): Given[] {
  const targets = isTable(group) ? group['targets'] : undefined
  if (!Array.isArray(targets) || !targets.every((target) => typeof target === 'string'))
    throw new LookupError(`has a group without a list of targets: ${quoted(group)}`, REMEDY)
  return targets.map((target) => ({ id: bareHost(target), name: target }))
}

function isAnsible(document: Record<string, unknown>): boolean {
  const groups = Object.entries(document).filter(([name]) => name !== '_meta')
  const isGroup = (value: unknown) =>
    Array.isArray(value) ||
    (isTable(value) && Object.keys(value).every((key) => ['hosts', 'children', 'vars'].includes(key)))
  return ('_meta' in document || groups.length > 0) && groups.every(([, value]) => isGroup(value))
}

/** Hosts without variables are in no hostvars, so names are taken from every group; which group has which does not matter here. */
function inAnsible(document: Record<string, unknown>): Given[] {
  const meta = document['_meta']
  const table = isTable(meta) && isTable(meta['hostvars']) ? meta['hostvars'] : {}
  const groups = Object.entries(document).flatMap(([group, value]) => {
    if (group === '_meta') return []
    const hosts = isTable(value) ? (value['hosts'] ?? []) : value
    if (Array.isArray(hosts) && hosts.every((host) => typeof host === 'string')) return hosts
    throw new LookupError(`has a group ${quoted(group)} without a list of hosts`, REMEDY)
  })
  return [...new Set([...groups, ...Object.keys(table)])].map((name) => {
    const vars = Object.hasOwn(table, name) ? table[name] : undefined
    const address = isTable(vars) ? vars['ansible_host'] : undefined
    return { id: name, name, addresses: typeof address === 'string' ? [address] : [] }
  })
}

function inPage(page: Record<string, unknown>, statuses: readonly string[]): Given[] {
  const results = page['results'] as readonly unknown[]
  const { count, next } = page
  if (next != null || (typeof count === 'number' && count !== results.length))
    throw new LookupError(
      `is one page of a longer list (${results.length} of ${quoted(count)})`,
      'save all of it (?limit=0), or set source = "netbox"',
    )
  return results.flatMap((record) => recordOf(record, 'machine', statuses)?.given ?? [])
}

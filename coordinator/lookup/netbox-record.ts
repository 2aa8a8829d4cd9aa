/** One record of NetBox, a device or a virtual machine, and whether it is what was asked for. Pure. */
import { LookupError, isTable, quoted } from './failure.ts'
import type { Given } from './names.ts'
import type { LookupSettings } from './settings.ts'

export type NetboxRecord = {
  readonly key: number
  /** Null for a record without a name, which nobody can ask for. */
  readonly given: Given | null
}

export function recordOf(record: unknown, kind: string, statuses: readonly string[]): NetboxRecord {
  const id = isTable(record) ? Number(record['id'] ?? Number.NaN) : Number.NaN
  if (!isTable(record) || !Number.isSafeInteger(id))
    throw new LookupError(`has a record without an id: ${quoted(record)}`, 'see that the address is that of NetBox')
  const { name } = record
  if (name !== null && typeof name !== 'string')
    throw new LookupError(`has a record without a name: ${quoted(record)}`, "let smith's account see whole records")
  const status = valueOf(record['status'], 'value')
  if (status === null) throw new LookupError(`says no status of ${kind} ${id}`, "let smith's account see whole records")
  if (name === null || name === '') return { key: id, given: null }
  const addresses = ['primary_ip', 'primary_ip4', 'primary_ip6'].flatMap(
    (field) => valueOf(record[field], 'address') ?? [],
  )
  const barred = statuses.includes(status) ? null : status
  return { key: id, given: { id: `${kind} ${id}`, name, addresses: [...new Set(addresses)], barred } }
}

/**
 * NetBox ignores a filter whose name it does not know, and answers with everything: the name of the first filter that
 * the record does not fit, or null.
 */
export function filterMissed(record: unknown, filters: LookupSettings['filters']): string | null {
  if (!isTable(record)) return 'any'
  const missed = Object.entries(filters).find(([name, asked]) => {
    if (name === 'tag') {
      const tags = Array.isArray(record['tags']) ? record['tags'].map((tag) => valueOf(tag, 'slug')) : []
      return !asked.every((slug) => tags.includes(slug))
    }
    // Before NetBox 4.0 the role of a device was `device_role`.
    const field = name === 'role' ? (record['role'] ?? record['device_role']) : record[name]
    const value = valueOf(field, name === 'status' ? 'value' : 'slug')
    return value === null || !asked.includes(value)
  })
  return missed?.[0] ?? null
}

function valueOf(field: unknown, key: string): string | null {
  const value = isTable(field) ? field[key] : undefined
  return typeof value === 'string' ? value : null
}

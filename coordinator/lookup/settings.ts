/** What `[lookup]` of the configuration becomes; config-lookup.ts checks it. All time bounds in milliseconds. */
type Filter = 'site' | 'role' | 'tenant' | 'platform' | 'status' | 'tag'
export type ObjectKind = 'devices' | 'virtual-machines'

export type LookupSettings = {
  readonly source: 'file' | 'http' | 'netbox'
  readonly file: string
  readonly url: string
  readonly user: string
  readonly tokenFile: string
  readonly caFile: string
  readonly objects: readonly ObjectKind[]
  readonly filters: Readonly<Partial<Record<Filter, readonly string[]>>>
  readonly statuses: readonly string[]
  /** Taken off the end of names. */
  readonly domains: readonly string[]
  readonly pageSize: number
  readonly machinesMax: number
  readonly bytesMax: number
  readonly timeoutMs: number
  readonly totalMsMax: number
}

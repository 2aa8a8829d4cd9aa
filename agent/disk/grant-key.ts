/**
 * `run/grant-key.json`: who this machine is and whose grants it obeys. Written once by `smith-agent enrol` as root;
 * the runner believes nothing else, the agent only reads the machine's id from it.
 */
import * as v from 'valibot'
import { base64Schema, idSchema, sha256Schema } from '../../protocol/ids.ts'
import { type Disk, readIfExists, writeFileDurably } from './disk.ts'
import type { Layout } from './layout.ts'

/**
 * `key` is SPKI in DER, base64; `keyId` its SHA-256. `coordinator` is the URL that the machine was enrolled with,
 * absent on a machine that was enrolled before it was kept here.
 */
const grantKeySchema = v.strictObject({
  machine: idSchema,
  coordinator: v.optional(v.pipe(v.string(), v.url(), v.maxLength(2000))),
  keys: v.pipe(v.array(v.strictObject({ keyId: sha256Schema, key: base64Schema })), v.minLength(1), v.maxLength(8)),
})
export type GrantKeys = v.InferOutput<typeof grantKeySchema>

export function writeGrantKeys(disk: Disk, layout: Layout, keys: GrantKeys): void {
  writeFileDurably(disk, layout.grantKey, `${JSON.stringify(v.parse(grantKeySchema, keys))}\n`, { mode: 0o644 })
}

/** Null when the machine is not enrolled; throws when the file is damaged. */
export function readGrantKeys(disk: Disk, layout: Layout): GrantKeys | null {
  const bytes = readIfExists(disk, layout.grantKey, 65_536)
  return bytes === null ? null : v.parse(grantKeySchema, JSON.parse(bytes.toString('utf8')))
}

/** The folders of a machine's state; `smith-agent enrol` makes them as root and gives `agent/`, `inbox/` and `asks/` away. */
export function makeStateFolders(disk: Disk, layout: Layout): void {
  disk.makeFolder(layout.state, 0o755)
  disk.makeFolder(layout.agent, 0o700)
  for (const folder of [layout.inbox, layout.asks]) disk.makeFolder(folder, 0o750)
  for (const folder of [layout.run, layout.taken, layout.refused, layout.orders, layout.reports])
    disk.makeFolder(folder, 0o751)
}

/**
 * Who this machine is to its coordinator: the files that enrolment writes and every start reads. The private key
 * never leaves the machine; the pin is what the coordinator is known by.
 */
import { createPrivateKey, sign } from 'node:crypto'
import { join } from 'node:path'
import * as v from 'valibot'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import { idSchema, machineNameSchema, shortTextSchema } from '../protocol/ids.ts'
import { type Disk, readIfExists, writeFileDurably } from './disk/disk.ts'
import type { Layout } from './disk/layout.ts'
import type { Identity } from './ports.ts'
import { counterFile } from './session/connection.ts'
import { problemOf } from './session/guard.ts'

const identitySchema = v.strictObject({
  machine: idSchema,
  name: machineNameSchema,
  instance: shortTextSchema,
  coordinator: v.string(),
  pin: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{43}$/)),
})
/** `coordinator` is the URL that the machine was enrolled with; the configuration may name another way to it. */
export type StoredIdentity = v.InferOutput<typeof identitySchema>

export function identityFile(layout: Layout): string {
  return join(layout.agent, 'identity.json')
}
export function keyFile(layout: Layout): string {
  return join(layout.agent, 'key.pem')
}

/** Null when the machine is not enrolled; throws a RefusedError when what is there can't be used. */
export function readStoredIdentity(disk: Disk, layout: Layout): StoredIdentity | null {
  const path = identityFile(layout)
  const bytes = readable(path, () => readIfExists(disk, path, 65_536))
  if (bytes === null) return null
  const parsed = v.safeParse(
    identitySchema,
    readable(path, () => JSON.parse(bytes.toString('utf8'))),
  )
  if (!parsed.success) throw new RefusedError([broken(path, parsed.issues[0].message)])
  return parsed.output
}

/** The identity with the means to prove it; throws a RefusedError when there is none. */
export function readIdentity(
  disk: Disk,
  layout: Layout,
): { readonly identity: Identity; readonly stored: StoredIdentity } {
  const stored = readStoredIdentity(disk, layout)
  if (stored === null) throw new RefusedError([notEnrolled(layout)])
  const path = keyFile(layout)
  const key = readable(path, () => createPrivateKey(readIfExists(disk, path, 65_536) ?? ''))
  const { machine, name, instance } = stored
  return { stored, identity: { machine, name, instance, sign: (bytes) => sign(null, bytes, key).toString('base64') } }
}

/** Key and counter first: an identity without them would be taken for an enrolled machine. */
export function writeIdentity(disk: Disk, layout: Layout, keyPem: string, stored: StoredIdentity): void {
  writeFileDurably(disk, keyFile(layout), keyPem, { mode: 0o600 })
  writeFileDurably(disk, counterFile(layout), '0\n', { mode: 0o600 })
  writeFileDurably(disk, identityFile(layout), `${JSON.stringify(stored, null, 2)}\n`, { mode: 0o600 })
}

export function notEnrolled(layout: Layout): Refusal {
  return {
    kind: 'unauthenticated',
    message: `this machine is not enrolled: ${identityFile(layout)} does not exist`,
    remedy:
      'Make a token with `smith enrol new --name NAME`, then run `smith-agent enrol --coordinator URL --token TOKEN` here as root.',
  }
}

function readable<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new RefusedError([broken(path, problemOf(error))])
  }
}

function broken(path: string, problem: string): Refusal {
  return {
    kind: 'internal',
    message: `${path} can't be used: ${problem}`,
    subject: path,
    remedy: `Run the command as root; if it was, make ${path} readable for the agent, or enrol the machine again.`,
  }
}

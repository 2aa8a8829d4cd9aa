/**
 * The smallest world that tests begin with: a signed archive behind a server, and a root that one upgrade brings up to
 * date. Called by tests, which go on from there; all of it ends with the test that made it.
 */
import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Archive, createArchive } from './archive.ts'
import { type BuiltPackage, type PackageSpec, buildPackage } from './builder.ts'
import { type PackageRoot, createRoot } from './root.ts'
import { type ArchiveServer, serveArchive } from './server.ts'
import { type SigningKey, createSigningKey } from './signing.ts'

export type World = {
  dir: string
  archive: Archive
  server: ArchiveServer
  root: PackageRoot
  old: BuiltPackage
  next: BuiltPackage
}

export const key: SigningKey = await createSigningKey()
const MINUTE_MS = 60_000
/** Whole minutes before now, so that no publication lies in apt's future. */
export const ago = (minutes: number): Date => new Date(Date.now() - minutes * MINUTE_MS)
/** No second try and no long wait: an error shall show at once. */
export const ONCE = ['-o', 'Acquire::Retries=0']

/** Archive with `hello` 1.1 in `prod`, and a root with `hello` 1.0. */
export async function makeWorld(test: Test, next: Partial<PackageSpec> = {}): Promise<World> {
  const dir = folder(test)
  const old = await buildPackage({ name: 'hello', version: '1.0' }, join(dir, 'debs'))
  const newer = await buildPackage({ name: 'hello', version: '1.1', ...next }, join(dir, 'debs'))
  const archive = await createArchive({ dir: join(dir, 'archive'), key })
  await archive.publish({ suite: 'prod', packages: [newer], build: '725', date: ago(60) })
  const server = await serveArchive({ dir: archive.dir })
  test.teardown(() => server.close())
  const root = await createRoot({
    dir,
    name: 'root',
    archiveUrl: server.url,
    keyFile: archive.keyFile,
    installed: [old],
  })
  test.teardown(() => root.close())
  return { dir, archive, server, root, old, next: newer }
}

/** A folder of its own, removed after the test; outside the checkout, which may be closed to an ordinary user. */
export function folder(test: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'smith-archive-'))
  test.teardown(() => rm(dir, { recursive: true, force: true }))
  return dir
}

export async function versionIn(root: PackageRoot, name = 'hello'): Promise<string | undefined> {
  return (await root.status(name))?.version
}

/**
 * The smallest whole use of the test world: one package, one archive, one root, one upgrade. Called by the tests as a
 * function and, as an ordinary user, as a program: `node upgrade-once.ts DIR` prints what came of it as JSON.
 */
import { join } from 'node:path'
import { createArchive } from './archive.ts'
import { buildPackage } from './builder.ts'
import { createRoot } from './root.ts'
import { serveArchive } from './server.ts'

export type Upgraded = {
  readonly before: string | undefined
  readonly after: string | undefined
  readonly audit: string
  readonly output: string
  /** Of the package's new version. */
  readonly sha256: string
}

export async function upgradeOnce(dir: string, name: string): Promise<Upgraded> {
  const old = await buildPackage({ name, version: '1.0' }, join(dir, 'debs'))
  const next = await buildPackage({ name, version: '1.1', postinst: 'echo "uid $(id -u) $*"' }, join(dir, 'debs'))
  const archive = await createArchive({ dir: join(dir, 'archive') })
  await archive.publish({ suite: 'prod', packages: [next], build: '725', date: new Date() })
  const server = await serveArchive({ dir: archive.dir })
  const root = await createRoot({
    dir,
    name: 'root',
    archiveUrl: server.url,
    keyFile: archive.keyFile,
    installed: [old],
  })
  try {
    const before = (await root.status(name))?.version
    const update = await root.apt(['update'])
    const upgrade = await root.apt(['dist-upgrade'])
    const after = (await root.status(name))?.version
    return { before, after, audit: await root.audit(), output: update.output + upgrade.output, sha256: next.sha256 }
  } finally {
    await root.close()
    await server.close()
  }
}

if (import.meta.main) {
  const [dir = '.', name = 'hello'] = process.argv.slice(2)
  process.stdout.write(JSON.stringify(await upgradeOnce(dir, name)))
}

/**
 * A signed apt archive on disk (wiki.debian.org/DebianRepository/Format), made without apt-ftparchive or gpg. Called by
 * tests, the demo and real test hosts. A publication is atomic per suite: `dists/<suite>` is a symlink that a rename
 * moves on, and index files of earlier publications stay under by-hash for a client that is still reading them.
 */
import { createHash, randomUUID } from 'node:crypto'
import {
  copyFile,
  cp,
  mkdir,
  readFile,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { type BuiltPackage, hostArchitecture } from './builder.ts'
import { type SigningKey, createSigningKey } from './signing.ts'

export type PublishOptions = {
  readonly suite: string
  /** `main` when left out. */
  readonly component?: string
  /** All that the suite holds from now on. */
  readonly packages: readonly BuiltPackage[]
  /** The build number that the Release file names, in `Version:` and, for whoever looks there, in `Build:`. */
  readonly build?: string
  /** apt refuses one more than 10 seconds ahead, and keeps what it has over an older one. */
  readonly date: Date
  readonly validUntil?: Date
  readonly codename?: string
  readonly label?: string
  /** Another key than the archive's own. */
  readonly signWith?: SigningKey
}

export type ResignOptions = { readonly date: Date; readonly validUntil?: Date; readonly signWith?: SigningKey }

export type Publication = {
  readonly suite: string
  /** The Release file's text, as it was signed. */
  readonly release: string
  /** SHA-256 of the whole InRelease file. */
  readonly inReleaseSha256: string
}

export type Archive = {
  /** The document root: holds dists/, pool/ and archive.asc. */
  readonly dir: string
  /** The public key, armoured, for `Signed-By`. */
  readonly keyFile: string
  readonly key: SigningKey
  readonly publish: (options: PublishOptions) => Promise<Publication>
  /** Publishes the very same indexes under a new Date and signature; its Valid-Until goes unless a new one is given. */
  readonly resign: (suite: string, options: ResignOptions) => Promise<Publication>
  /** Shows the publication before the one that is shown now: an attacker's replay, or a mirror's mistake. */
  readonly rollBack: (suite: string) => Promise<void>
  /** Changes bytes of a file below `dir` and keeps its size: what was signed no longer holds. */
  readonly tamper: (path: string) => Promise<void>
  /** Where a package lies below `dir`. */
  readonly poolPath: (built: BuiltPackage, component?: string) => string
}

/** Opens the archive in `dir`, which may hold publications already; without `key` a new one is made. */
export async function createArchive(options: { dir: string; key?: SigningKey }): Promise<Archive> {
  const dir = resolve(options.dir)
  const key = options.key ?? (await createSigningKey())
  const keyFile = join(dir, 'archive.asc')
  await mkdir(join(dir, 'dists'), { recursive: true })
  await writeFile(keyFile, key.publicArmored)
  return {
    dir,
    keyFile,
    key,
    publish: (publish) => publishSuite(dir, key, publish),
    resign: (suite, resign) => resignSuite(dir, key, suite, resign),
    rollBack: async (suite) => {
      const shown = Number((await shownPublication(dir, suite))?.split('/').at(-1))
      if (!(shown > 1)) throw new Error(`suite ${suite} has no earlier publication to roll back to`)
      await show(dir, suite, shown - 1)
    },
    tamper: (path) => tamperFile(join(dir, path)),
    poolPath,
  }
}

function poolPath(built: BuiltPackage, component = 'main'): string {
  // The hash keeps two builds that claim the same version apart, so that no publication changes another one's files.
  return join('pool', component, built.name, built.sha256.slice(0, 12), basename(built.path))
}

async function publishSuite(dir: string, archiveKey: SigningKey, options: PublishOptions): Promise<Publication> {
  const component = options.component ?? 'main'
  const arch = await hostArchitecture()
  for (const built of options.packages) {
    const to = join(dir, poolPath(built, component))
    await mkdir(dirname(to), { recursive: true })
    // Two suites may be published with one package at the same time.
    const fresh = `${to}.${randomUUID()}`
    await copyFile(built.path, fresh)
    await rename(fresh, to)
  }
  const packages = options.packages.map((built) => packageParagraph(built, poolPath(built, component))).join('\n')
  const { folder, number } = await nextPublication(dir, options.suite)
  const indexFolder = join(component, `binary-${arch}`)
  const indexes = [
    { path: join(indexFolder, 'Packages'), bytes: Buffer.from(packages) },
    { path: join(indexFolder, 'Packages.gz'), bytes: gzipSync(packages) },
  ]
  for (const index of indexes) {
    const byHash = join(folder, dirname(index.path), 'by-hash/SHA256', sha256(index.bytes))
    await mkdir(dirname(byHash), { recursive: true })
    await writeFile(byHash, index.bytes)
    await writeFile(join(folder, index.path), index.bytes)
  }
  const release = releaseText(options, component, arch, indexes)
  return finish(dir, options.suite, { folder, number, release, date: options.date }, options.signWith ?? archiveKey)
}

async function resignSuite(dir: string, key: SigningKey, suite: string, options: ResignOptions): Promise<Publication> {
  const { folder, number } = await nextPublication(dir, suite)
  const signed = await readFile(join(folder, 'Release'), 'utf8')
  const dates = dateFields(options)
    .map((line) => `${line}\n`)
    .join('')
  const release = signed.replace(/^Valid-Until: .*\n/m, '').replace(/^Date: .*\n/m, dates)
  return finish(dir, suite, { folder, number, release, date: options.date }, options.signWith ?? key)
}

/** The folder of the suite's next publication, begun as a copy of the one that is shown. */
async function nextPublication(dir: string, suite: string): Promise<{ folder: string; number: number }> {
  const all = join(dir, 'publications', suite)
  await mkdir(all, { recursive: true })
  const number = Math.max(0, ...(await readdir(all)).map(Number)) + 1
  const folder = join(all, String(number))
  const shown = await shownPublication(dir, suite)
  if (shown === undefined) await mkdir(folder)
  else await cp(shown, folder, { recursive: true })
  return { folder, number }
}

type Unsigned = { readonly folder: string; readonly number: number; readonly release: string; readonly date: Date }

async function finish(dir: string, suite: string, next: Unsigned, key: SigningKey): Promise<Publication> {
  const inRelease = await key.signClear(next.release, next.date)
  const files = {
    Release: next.release,
    InRelease: inRelease,
    'Release.gpg': await key.signDetached(next.release, next.date),
  }
  for (const [name, text] of Object.entries(files)) {
    const path = join(next.folder, name)
    await writeFile(path, text)
    // Last-Modified follows Date, so that two publications within one second are still two for HTTP.
    await utimes(path, next.date, next.date)
  }
  await show(dir, suite, next.number)
  return { suite, release: next.release, inReleaseSha256: sha256(inRelease) }
}

/** The one step that readers see. */
async function show(dir: string, suite: string, number: number): Promise<void> {
  const link = join(dir, 'dists', suite)
  await rm(`${link}.new`, { force: true })
  await symlink(join('..', 'publications', suite, String(number)), `${link}.new`)
  await rename(`${link}.new`, link)
}

async function shownPublication(dir: string, suite: string): Promise<string | undefined> {
  const present = (await readdir(join(dir, 'dists'))).includes(suite)
  return present ? resolve(dir, 'dists', await readlink(join(dir, 'dists', suite))) : undefined
}

function packageParagraph(built: BuiltPackage, filename: string): string {
  return `${built.control}Filename: ${filename}\nSize: ${built.size}\nSHA256: ${built.sha256}\n`
}

function releaseText(
  options: PublishOptions,
  component: string,
  arch: string,
  indexes: readonly { readonly path: string; readonly bytes: Buffer }[],
): string {
  const lines = [
    'Origin: smith',
    `Label: ${options.label ?? 'smith test archive'}`,
    `Suite: ${options.suite}`,
    `Codename: ${options.codename ?? options.suite}`,
    ...(options.build === undefined ? [] : [`Version: ${options.build}`, `Build: ${options.build}`]),
    ...dateFields(options),
    'Acquire-By-Hash: yes',
    `Architectures: ${arch}`,
    `Components: ${component}`,
    'SHA256:',
    ...indexes.map((index) => ` ${sha256(index.bytes)} ${index.bytes.length} ${index.path}`),
  ]
  return `${lines.join('\n')}\n`
}

function dateFields(options: { readonly date: Date; readonly validUntil?: Date }): readonly string[] {
  const date = `Date: ${options.date.toUTCString()}`
  return options.validUntil === undefined ? [date] : [date, `Valid-Until: ${options.validUntil.toUTCString()}`]
}

async function tamperFile(path: string): Promise<void> {
  const bytes = await readFile(path)
  const last = bytes.length - 1
  bytes[last] = (bytes[last] ?? 0) ^ 0xff
  await writeFile(path, bytes)
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

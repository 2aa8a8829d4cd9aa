/**
 * A .deb out of a list of files: staged, measured, packed by dpkg-deb. Called by package.ts. The same content gives
 * the same bytes, and content that was packed before is not packed again: the compression of Node takes a minute.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, copyFile, mkdir, mkdtemp, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** A file or an empty folder of the package; `path` is where it lies on the machine. */
export type Entry =
  | { readonly path: string; readonly mode: number; readonly bytes: Uint8Array | string }
  | { readonly path: string; readonly mode: number; readonly from: string }
  | { readonly path: string; readonly mode: number; readonly folder: true }

export type DebSpec = {
  readonly name: string
  readonly version: string
  readonly arch: string
  /** Fields of the control file besides those above and the size. */
  readonly fields: Readonly<Record<string, string>>
  readonly scripts: Readonly<Record<string, string>>
  readonly entries: readonly Entry[]
  /** The time of everything in it, in seconds: SOURCE_DATE_EPOCH. */
  readonly epoch: number
  /** xz's level for what is given away; 0, where time counts, is zstd's fastest, which takes a twentieth of xz's. */
  readonly level: number
}

/** What dpkg-deb is told besides the level; a change here makes another package. */
const DPKG_DEB = ['--root-owner-group', '--threads-max=1']

/** Writes `<name>_<version>_<arch>.deb` into the folder, or finds it there made from the same content. */
export async function makeDeb(spec: DebSpec, outdir: string): Promise<{ path: string; isNew: boolean }> {
  await mkdir(outdir, { recursive: true })
  const path = join(outdir, `${spec.name}_${spec.version}_${spec.arch}.deb`)
  const stamp = join(outdir, `.${spec.name}_${spec.arch}.made-from`)
  const made = await readMade(stamp)
  const hash = await hashOf(spec)
  if (made?.hash === hash && made.level >= spec.level && made.sha256 === (await sha256Of(path)))
    return { path, isNew: false }
  const stage = await mkdtemp(join(outdir, `.${spec.name}-`))
  try {
    await rm(stamp, { force: true })
    const root = join(stage, 'root')
    await stageEntries(spec, root)
    const packed = join(stage, 'packed.deb')
    const env = {
      PATH: process.env['PATH'] ?? '/usr/bin:/bin',
      SOURCE_DATE_EPOCH: String(spec.epoch),
      LC_ALL: 'C.UTF-8',
    }
    await run('dpkg-deb', [...DPKG_DEB, ...compression(spec.level), '--build', root, packed], { env })
    await rename(packed, path)
  } finally {
    await rm(stage, { recursive: true, force: true })
  }
  await writeFile(stamp, JSON.stringify({ hash, level: spec.level, sha256: await sha256Of(path) }))
  return { path, isNew: true }
}

function compression(level: number): string[] {
  return level === 0 ? ['-Zzstd', '-z1'] : ['-Zxz', `-z${level}`]
}

type Made = { readonly hash: string; readonly level: number; readonly sha256: string }

async function readMade(stamp: string): Promise<Made | null> {
  const text = await readFile(stamp, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  return text === null ? null : (JSON.parse(text) as Made)
}

async function sha256Of(path: string): Promise<string | null> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  return bytes === null ? null : createHash('sha256').update(bytes).digest('hex')
}

/** Of everything that decides the bytes of the package, but for the level. */
async function hashOf(spec: DebSpec): Promise<string> {
  const hash = createHash('sha256')
  const { entries, level: _, ...rest } = spec
  hash.update(JSON.stringify([DPKG_DEB, rest]))
  for (const entry of entries) {
    hash.update(`\0${entry.path}\0${entry.mode}\0`)
    if (!('folder' in entry)) hash.update(await bytesOf(entry))
  }
  return hash.digest('hex')
}

async function bytesOf(entry: Exclude<Entry, { folder: true }>): Promise<Uint8Array> {
  return 'from' in entry ? await readFile(entry.from) : Buffer.from(entry.bytes)
}

async function stageEntries(spec: DebSpec, root: string): Promise<void> {
  const control = join(root, 'DEBIAN')
  await makeFolder(root)
  const sums: string[] = []
  let kilobytes = 0
  for (const entry of spec.entries.toSorted((a, b) => (a.path < b.path ? -1 : 1))) {
    const path = join(root, entry.path)
    await makeFolders(root, 'folder' in entry ? path : dirname(path))
    if (!('folder' in entry)) {
      if ('from' in entry) await copyFile(entry.from, path)
      else await writeFile(path, entry.bytes)
      const bytes = await readFile(path)
      sums.push(`${createHash('md5').update(bytes).digest('hex')}  ${entry.path.slice(1)}`)
      kilobytes += Math.ceil(bytes.length / 1024)
    }
    await chmod(path, entry.mode)
    await utimes(path, spec.epoch, spec.epoch)
  }
  await makeFolder(control)
  const put = async (name: string, text: string, mode: number) => {
    await writeFile(join(control, name), text)
    await chmod(join(control, name), mode)
  }
  await put('control', controlText(spec, kilobytes), 0o644)
  await put('md5sums', `${sums.join('\n')}\n`, 0o644)
  const conffiles = spec.entries.flatMap((one) =>
    one.path.startsWith('/etc/') && !('folder' in one) ? [one.path] : [],
  )
  if (conffiles.length > 0) await put('conffiles', `${conffiles.toSorted().join('\n')}\n`, 0o644)
  for (const [name, text] of Object.entries(spec.scripts)) await put(name, text, 0o755)
}

/** Whatever the umask of whoever builds. */
async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true })
  await chmod(path, 0o755)
}

async function makeFolders(root: string, path: string): Promise<void> {
  if (path === root) return
  await makeFolders(root, dirname(path))
  if (!existsSync(path)) await makeFolder(path)
}

function controlText(spec: DebSpec, kilobytes: number): string {
  const fields = {
    Package: spec.name,
    Version: spec.version,
    Architecture: spec.arch,
    'Installed-Size': String(kilobytes),
    ...spec.fields,
  }
  return `${Object.entries(fields)
    .map(([key, value]) => `${key}: ${value}`)
    .join('\n')}\n`
}

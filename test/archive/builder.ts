/**
 * Builds the .deb packages of the test world with dpkg-deb(1). Tests, the demo and real test hosts call it. The same
 * spec always gives the same bytes, so a package's hash can stand in an expectation. Maintainer scripts run in private
 * roots without chroot: every path that they touch begins with $DPKG_ROOT, which is empty on a real host.
 */
import { createHash } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { execa } from 'execa'
import { type Behaviour, type ScriptName, SCRIPT_NAMES, scriptText } from './behaviours.ts'

export type PackageSpec = {
  readonly name: string
  readonly version: string
  /** `all` when left out, `host` for the architecture of this machine. */
  readonly arch?: string
  readonly depends?: string
  readonly conflicts?: string
  readonly breaks?: string
  readonly replaces?: string
  readonly essential?: boolean
  readonly priority?: string
  readonly section?: string
  readonly description?: string
  /** Absolute paths in the package to their content. */
  readonly files?: Readonly<Record<string, string>>
  /** As `files`, and listed in the package's conffiles. */
  readonly conffiles?: Readonly<Record<string, string>>
  /** What Installed-Size claims; without it the size of the files. */
  readonly installedSizeKib?: number
  /** Bodies for sh(1) under `set -e`, run after the behaviours of that script, whatever its arguments are. */
  readonly preinst?: string
  readonly postinst?: string
  readonly prerm?: string
  readonly postrm?: string
  /** Other members of the control archive, such as debconf's `templates` and `config`, by name. */
  readonly control?: Readonly<Record<string, string>>
  /** Other fields of the control paragraph; an archive's index repeats them. */
  readonly fields?: Readonly<Record<string, string>>
  readonly behaviours?: readonly Behaviour[]
}

export type BuiltPackage = {
  readonly name: string
  readonly version: string
  readonly arch: string
  /** The .deb, named as in an archive's pool: the epoch is left out. */
  readonly path: string
  readonly size: number
  readonly sha256: string
  /** The control paragraph as dpkg-deb reads it back, ending in one newline. */
  readonly control: string
}

/** 2023-11-14: every file of a package has this time, so that its bytes depend on the spec alone. */
const PACKAGE_TIME_S = 1_700_000_000

let hostArch: Promise<string> | undefined
/** The architecture for which dpkg installs on this machine; asked once. */
export function hostArchitecture(): Promise<string> {
  hostArch ??= execa('dpkg', ['--print-architecture']).then((answer) => answer.stdout)
  return hostArch
}

/**
 * Builds one package into a folder of `outDir` (made if need be) that bears its hash, and tells what came out: of two
 * that claim the same version, at the same time too, neither is written over.
 */
export async function buildPackage(spec: PackageSpec, outDir: string): Promise<BuiltPackage> {
  const arch = spec.arch === 'host' ? await hostArchitecture() : (spec.arch ?? 'all')
  const file = `${spec.name}_${spec.version.replace(/^\d+:/, '')}_${arch}.deb`
  await mkdir(outDir, { recursive: true })
  const work = await mkdtemp(join(outDir, '.build-'))
  try {
    const tree = join(work, 'tree')
    await mkdir(tree, { mode: 0o755 })
    await writeTree(tree, spec, arch)
    const env = { SOURCE_DATE_EPOCH: String(PACKAGE_TIME_S), LC_ALL: 'C.UTF-8' }
    const made = join(work, file)
    // No compression: quick, and the bytes do not depend on the version of a compressor.
    await execa('dpkg-deb', ['--root-owner-group', '-Znone', '-b', tree, made], { env })
    const bytes = await readFile(made)
    const control = (await execa('dpkg-deb', ['-f', made])).stdout
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const path = join(outDir, sha256.slice(0, 12), file)
    await mkdir(dirname(path), { recursive: true })
    await rename(made, path)
    return { name: spec.name, version: spec.version, arch, path, size: bytes.length, sha256, control: `${control}\n` }
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function writeTree(tree: string, spec: PackageSpec, arch: string): Promise<void> {
  const payload = { ...spec.files, ...spec.conffiles }
  for (const [path, content] of Object.entries(payload)) await writeMode(join(tree, path), content, 0o644)
  const control = join(tree, 'DEBIAN')
  await writeMode(join(control, 'control'), controlText(spec, arch, sizeKib(payload)), 0o644)
  const conffiles = Object.keys(spec.conffiles ?? {})
  if (conffiles.length > 0) await writeMode(join(control, 'conffiles'), lines(conffiles), 0o644)
  for (const [name, text] of Object.entries(spec.control ?? {}))
    await writeMode(join(control, name), text, name === 'config' ? 0o755 : 0o644)
  for (const script of SCRIPT_NAMES) {
    const text = scriptText(script, spec.name, spec.behaviours ?? [], rawBody(spec, script))
    if (text !== undefined) await writeMode(join(control, script), text, 0o755)
  }
  // The caller's umask must not show in the package.
  await chmod(tree, 0o755)
  for (const entry of await readdir(tree, { recursive: true, withFileTypes: true }))
    if (entry.isDirectory()) await chmod(join(entry.parentPath, entry.name), 0o755)
}

async function writeMode(path: string, content: string, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, content)
  await chmod(path, mode)
}

function controlText(spec: PackageSpec, arch: string, defaultSizeKib: number): string {
  const fields: readonly (readonly [string, string | undefined])[] = [
    ['Package', spec.name],
    ['Version', spec.version],
    ['Architecture', arch],
    ['Maintainer', 'smith test archive <smith@example.invalid>'],
    ['Installed-Size', String(spec.installedSizeKib ?? defaultSizeKib)],
    ['Essential', spec.essential === true ? 'yes' : undefined],
    ['Depends', spec.depends],
    ['Conflicts', spec.conflicts],
    ['Breaks', spec.breaks],
    ['Replaces', spec.replaces],
    ['Section', spec.section ?? 'misc'],
    ['Priority', spec.priority ?? 'optional'],
    ...Object.entries(spec.fields ?? {}),
    ['Description', spec.description ?? `test package ${spec.name}`],
  ]
  return lines(fields.flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}`])))
}

function sizeKib(payload: Readonly<Record<string, string>>): number {
  return Object.values(payload).reduce((sum, content) => sum + Math.ceil(Buffer.byteLength(content) / 1024), 0)
}

function rawBody(spec: PackageSpec, script: ScriptName): string | undefined {
  return spec[script]
}

function lines(texts: readonly string[]): string {
  return texts.map((text) => `${text}\n`).join('')
}

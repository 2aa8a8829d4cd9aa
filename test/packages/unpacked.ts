/**
 * The two packages for the tests: built (or found built from the same content), unpacked into a folder, and their
 * programs started from there with an empty environment, as nothing but the package were on the machine.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { DEFAULTS, type MadePackage, makePackages } from '../../systemd/package.ts'
import { CHECKOUT } from '../demo/process.ts'

const run = promisify(execFile)
/** Only ends what would hang. */
const GIVE_UP_MS = 120_000

export type Ran = { readonly status: number; readonly stdout: string; readonly stderr: string }
export type Listed = { readonly mode: string; readonly owner: string; readonly path: string; readonly size: number }
export type Unpacked = {
  readonly debs: readonly MadePackage[]
  /** What `/` would be with both installed. */
  readonly tree: string
  readonly listed: ReadonlyMap<string, readonly Listed[]>
  readonly field: (name: string, field: string) => Promise<string>
  /** The maintainer scripts and lists of a package. */
  readonly control: (name: string) => Readonly<Record<string, string>>
  readonly start: (node: string, args: readonly string[], input?: string) => Promise<Ran>
}

export async function run0(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  try {
    const { stdout, stderr } = await run(program, [...args], { env, maxBuffer: 64 * 1024 * 1024, timeout: GIVE_UP_MS })
    return { status: 0, stdout, stderr }
  } catch (error) {
    const failed = error as { code?: number | string | null; killed?: boolean; stdout?: string; stderr?: string }
    if (failed.killed === true) return { status: -1, stdout: failed.stdout ?? '', stderr: failed.stderr ?? '' }
    if (typeof failed.code !== 'number') throw error
    return { status: failed.code, stdout: failed.stdout ?? '', stderr: failed.stderr ?? '' }
  }
}

/** Less compressed than those for people, which takes a tenth of the time. */
export function build(out: string): Promise<MadePackage[]> {
  return makePackages({ ...DEFAULTS, out, level: 0 })
}

export async function unpack(t: Test): Promise<Unpacked> {
  const debs = await build(join(CHECKOUT, 'dist/fast'))
  const dir = mkdtempSync(join(tmpdir(), 'smith-packages-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const tree = join(dir, 'tree')
  const listed = new Map<string, readonly Listed[]>()
  for (const { name, path } of debs) {
    await run('dpkg-deb', ['--extract', path, tree])
    await run('dpkg-deb', ['--control', path, join(dir, name)])
    const { stdout } = await run('dpkg-deb', ['--contents', path])
    listed.set(name, stdout.trim().split('\n').map(listedOf))
  }
  const pathOf = (name: string) => debs.find((one) => one.name === name)?.path ?? ''
  return {
    debs,
    tree,
    listed,
    field: async (name, field) => (await run('dpkg-deb', ['--field', pathOf(name), field])).stdout.trim(),
    control: (name) =>
      Object.fromEntries(readdirSync(join(dir, name)).map((one) => [one, readFileSync(join(dir, name, one), 'utf8')])),
    start: (node, args) => run0(join(tree, node), args),
  }
}

/** `-rw-r--r-- root/root 535 2026-01-01 00:00 ./usr/bin/smith` */
function listedOf(line: string): Listed {
  const [mode = '', owner = '', size = '', , , path = ''] = line.split(/\s+/)
  return { mode, owner, size: Number(size), path: path.slice(1) }
}

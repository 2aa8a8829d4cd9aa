/**
 * The tree of files that every host starts from: a minimal Debian with systemd, made by mmdebstrap from the very
 * mirror that this machine's own apt uses, and kept for the next time. Called by the tests and by hosts.ts. A tree
 * in its place is always whole: it is made beside it and moved there, by one builder at a time.
 */
import { createHash } from 'node:crypto'
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { spawn } from 'node:child_process'
import { BARE_ENVIRONMENT, run } from './commands.ts'

export type Suite = 'bookworm' | 'trixie'
export const SUITES: readonly Suite[] = ['bookworm', 'trixie']
const CACHE = '/var/cache/smith-hosts'
/** Part of the cache's key: a tree made by another recipe is another tree. */
const PACKAGES = ['systemd', 'systemd-sysv', 'dbus', 'iproute2', 'procps']
const NEEDED: readonly (readonly [program: string, debian: string])[] = [
  ['mmdebstrap', 'mmdebstrap'],
  ['systemd-nspawn', 'systemd-container'],
  ['ip', 'iproute2'],
  ['nsenter', 'util-linux'],
  ['setpriv', 'util-linux'],
  ['flock', 'util-linux'],
  ['mount', 'mount'],
]

/** Why no host can be booted here, by name; null when one can. */
export function whyNoHosts(): string | null {
  if (process.platform !== 'linux') return 'hosts need Linux'
  if (process.getuid?.() !== 0) return 'hosts need root'
  const missing = NEEDED.filter(([program]) => !isOnPath(program))
  if (missing.length > 0)
    return `hosts need ${missing.map(([program, debian]) => `${program} (apt install ${debian})`).join(', ')}`
  if (!/\boverlay$/m.test(readFileSync('/proc/filesystems', 'utf8')))
    return 'hosts need overlayfs, which this kernel has not loaded (modprobe overlay)'
  if (cgroupRoots().length === 0) return 'hosts need control groups mounted below /sys/fs/cgroup'
  const writable = cgroupRoots().every((root) => isWritable(root))
  return writable
    ? null
    : 'hosts need control groups that can be written to (a container without --privileged has none)'
}

/** Every hierarchy of control groups: the single one of new systems, or each of version 1 and the unified one. */
export function cgroupRoots(): readonly string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [, place = '', type = ''] = line.split(' ')
      return (type === 'cgroup' || type === 'cgroup2') && place.startsWith('/sys/fs/cgroup') ? [place] : []
    })
}

function isOnPath(program: string): boolean {
  return `${BARE_ENVIRONMENT['PATH']}`.split(delimiter).some((folder) => existsSync(join(folder, program)))
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error) return false
    throw error
  }
}

/** Lines of a sources.list for the suite, from this machine's own Debian repositories; none when it has none. */
export function sourcesFor(suite: Suite, targets: string): readonly string[] {
  const lines = targets.split('\n').flatMap((line) => {
    const [uri = '', release = '', component = ''] = line.split(' ')
    const found = /^(bullseye|bookworm|trixie|forky|sid)(-updates|-security)?\/?$/.exec(release)
    return found === null ? [] : [`deb ${uri} ${suite}${found[2] ?? ''} ${component}`]
  })
  return [...new Set(lines)].filter((line) => line.endsWith(' main')).toSorted()
}

/**
 * The folder of the suite's tree, with `extra` packages of the suite in it; made first where it is not there yet, which
 * takes about half a minute.
 */
export async function ensureBase(
  suite: Suite,
  say: (line: string) => void = () => {},
  extra: readonly string[] = [],
): Promise<string> {
  const asked = await run([
    'apt-get',
    'indextargets',
    '--format',
    '$(REPO_URI) $(RELEASE) $(COMPONENT)',
    'Created-By: Packages',
  ])
  const sources = sourcesFor(suite, asked.stdout)
  if (sources.length === 0) throw new Error(`this machine's apt knows no Debian repository to take ${suite} from`)
  const packages = [...PACKAGES, ...extra]
  const key = createHash('sha256')
    .update(JSON.stringify([sources, packages, CUSTOMIZE]))
    .digest('hex')
    .slice(0, 12)
  const place = join(CACHE, `${suite}-${key}`)
  if (existsSync(place)) return place
  mkdirSync(CACHE, { recursive: true, mode: 0o755 })
  say(`making a ${suite} tree in ${place} (once on this machine, about half a minute)`)
  await build({ suite, packages, place, sources }, say)
  return place
}

const CUSTOMIZE: readonly string[] = [
  // A journal that outlives a reboot, and no identity that two hosts would share.
  'mkdir -p "$1/var/log/journal"; : > "$1/etc/machine-id"; rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
  // Nothing may be fetched from elsewhere: a host has only the archive of its test.
  'rm -f "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/lib/apt/lists/*_*',
  'chroot "$1" systemctl enable systemd-networkd.service',
]

type Recipe = {
  readonly suite: Suite
  readonly packages: readonly string[]
  readonly place: string
  readonly sources: readonly string[]
}

async function build({ suite, packages, place, sources }: Recipe, say: (line: string) => void): Promise<void> {
  const fresh = `${place}.new`
  const hooks = CUSTOMIZE.map((hook) => `--customize-hook=${hook}`)
  const bootstrap = [
    'mmdebstrap',
    '--mode=root',
    '--variant=minbase',
    `--include=${packages.join(',')}`,
    ...hooks,
    suite,
    fresh,
    '-',
  ]
  // The lock lies in the kernel, so it goes with whoever dies; who waited finds the tree made.
  const script =
    'place=$1; shift; [ -e "$place" ] && exit 0; rm -rf --one-file-system "$place.new"; nice -n 5 "$@" && mv "$place.new" "$place"'
  const child = spawn('flock', [join(CACHE, 'lock'), 'sh', '-c', script, 'sh', place, ...bootstrap], {
    env: { ...BARE_ENVIRONMENT },
    cwd: '/',
    stdio: ['pipe', 'ignore', 'pipe'],
  })
  child.stdin.end(sources.map((line) => `${line}\n`).join(''))
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
    for (const line of text.matchAll(/^I: (?!automatically|chroot|finding|reading)(.*)$/gm)) say(`  ${line[1]}`)
  })
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  const last = said.trim().split('\n').slice(-5).join('\n')
  if (status !== 0)
    throw new Error(
      `the ${suite} tree could not be made (mmdebstrap, status ${status}):\n${last}\nIs the mirror of this machine's apt in reach? Try: apt-get update`,
    )
}

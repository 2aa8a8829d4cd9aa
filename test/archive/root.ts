/**
 * A private package root: real apt and real dpkg on a folder, with the host's configuration, lists, status and logs
 * neither read nor written. Called by tests and the demo; works for root and for an ordinary user. A program that is
 * told only `root = DIR` can rely on this layout, all of it below DIR:
 *
 *   etc/apt/{apt.conf,apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d}   the root's own apt configuration
 *   etc/smith/repos/prod.sources, build.sources.in        deb822, `Signed-By` an absolute path; `{build}` in the second
 *   var/lib/dpkg/{status,available,info,updates,triggers}, var/lib/apt/{lists/partial,extended_states}
 *   var/cache/apt/archives/partial, var/log/{dpkg.log,apt/{history.log,term.log}}, run/, tmp/
 *
 * and must run apt with `rootAptOptions(DIR)` in a file named by APT_CONFIG: apt reads that file before the folder
 * apt.conf.d, so `Dir` moves that folder too. Given by `-o` they come too late: the host's apt.conf.d, hooks and all,
 * has been read by then. dpkg's own /etc/dpkg/dpkg.cfg.d is still the host's (dpkg has no switch for it); HOME must
 * point into the root for ~/.dpkg.cfg not to count.
 */
import { createWriteStream, openSync } from 'node:fs'
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { execa } from 'execa'
import type { BuiltPackage } from './builder.ts'

/** apt's settings for a private root, as `Name=value`; a name that ends in `::` adds to a list. */
export function rootAptOptions(root: string): readonly string[] {
  return [
    `Dir=${root}/`,
    // These have absolute defaults, which `Dir` does not move.
    `Dir::State::status=${root}/var/lib/dpkg/status`,
    'Dir::Bin::dpkg=/usr/bin/dpkg',
    // Root would else become `_apt`, who may not reach the folder.
    'APT::Sandbox::User=root',
    ...rootDpkgOptions(root).map((option) => `DPkg::Options::=${option}`),
  ]
}

/** dpkg's part of it. Without `--log` root would write the host's /var/log/dpkg.log. */
export function rootDpkgOptions(root: string): readonly string[] {
  return [
    `--root=${root}`,
    '--force-not-root',
    '--force-script-chrootless',
    '--force-bad-path',
    `--log=${root}/var/log/dpkg.log`,
  ]
}

/** The text of the file that APT_CONFIG must name. */
export function rootAptConfig(root: string): string {
  return rootAptOptions(root)
    .map((option) => `${option.replace('=', ' "')}";\n`)
    .join('')
}

export type Ran = {
  readonly exitCode: number
  /** What was printed on stdout and stderr, in order. */
  readonly output: string
  /** The same, byte for byte. */
  readonly bytes: Buffer
}

export type RunOptions = {
  /** What the program reads on stdin; without it /dev/null. */
  readonly input?: string
  /** From which repository apt installs: `prod` when left out, or a numbered build. */
  readonly build?: string
}

export type PackageRoot = {
  readonly root: string
  /** Where prod.sources and build.sources.in are. */
  readonly sourcesDir: string
  /** The file to give as APT_CONFIG. */
  readonly aptConfig: string
  readonly env: Readonly<Record<string, string>>
  /** apt-get, noninteractive. Never throws for an exit status. */
  readonly apt: (args: readonly string[], options?: RunOptions) => Promise<Ran>
  readonly dpkg: (args: readonly string[], options?: RunOptions) => Promise<Ran>
  /** Version and dpkg state (`install ok installed`), or nothing when dpkg does not know the package. */
  readonly status: (name: string) => Promise<{ readonly version: string; readonly state: string } | undefined>
  readonly hold: (name: string) => Promise<void>
  readonly markAuto: (name: string) => Promise<void>
  readonly autoPackages: () => Promise<readonly string[]>
  /** What `dpkg --audit` prints; empty when all is well. */
  readonly audit: () => Promise<string>
  /** The test's side of a package's `gate` or `hang` behaviour. */
  readonly gate: (file: string) => Gate
  /** Ends what the packages left running (pid files below run/) and removes the folder. */
  readonly close: () => Promise<void>
}

export type Gate = {
  /** Waits until the script has arrived, and gives its pid. */
  readonly reached: () => Promise<number>
  readonly open: () => Promise<void>
}

export type RootOptions = {
  /** The root is `dir/name`, or `dir` itself. */
  readonly dir: string
  readonly name?: string
  /** Serves suite `prod` and, as suites, the numbered builds. */
  readonly archiveUrl?: string
  /** Instead of `archiveUrl`: the whole text of each sources file. */
  readonly sources?: { readonly prod: string; readonly build?: string }
  readonly keyFile: string
  /** Installed by dpkg, in one call. */
  readonly installed?: readonly BuiltPackage[]
  /** Names of those to mark as installed automatically. */
  readonly auto?: readonly string[]
}

const FOLDERS = [
  'etc/apt/apt.conf.d',
  'etc/apt/preferences.d',
  'etc/apt/sources.list.d',
  'etc/apt/trusted.gpg.d',
  'etc/smith/repos',
  'var/lib/dpkg/info',
  'var/lib/dpkg/updates',
  'var/lib/dpkg/triggers',
  'var/lib/apt/lists/partial',
  'var/cache/apt/archives/partial',
  'var/log/apt',
  'run',
  'tmp',
]
/** No translations to ask for, and no proxy of the environment between us and 127.0.0.1. */
const APT_CONF = 'Acquire::Languages "none";\nAcquire::http::Proxy::127.0.0.1 "DIRECT";\n'

export async function createRoot(options: RootOptions): Promise<PackageRoot> {
  const root = resolve(options.dir, options.name ?? '')
  const sourcesDir = join(root, 'etc/smith/repos')
  const aptConfig = join(root, 'etc/apt/root.conf')
  for (const folder of FOLDERS) await mkdir(join(root, folder), { recursive: true })
  await writeFile(join(root, 'etc/apt/apt.conf'), APT_CONF)
  await writeFile(aptConfig, rootAptConfig(root))
  await writeFile(join(root, 'var/lib/dpkg/status'), '', { flag: 'a' })
  await writeFile(join(root, 'var/lib/dpkg/available'), '', { flag: 'a' })
  await writeSources(sourcesDir, options)
  const made = packageRoot(root, sourcesDir, aptConfig)
  const archives = (options.installed ?? []).map((built) => built.path)
  if (archives.length > 0) must(await made.dpkg(['--install', ...archives]), `installing ${archives.join(' ')}`)
  for (const name of options.auto ?? []) await made.markAuto(name)
  return made
}

async function writeSources(sourcesDir: string, options: RootOptions): Promise<void> {
  const stanza = (suite: string): string =>
    [
      'Types: deb',
      `URIs: ${options.archiveUrl ?? ''}`,
      `Suites: ${suite}`,
      'Components: main',
      `Signed-By: ${resolve(options.keyFile)}`,
      '',
    ].join('\n')
  if (options.archiveUrl === undefined && options.sources === undefined)
    throw new Error('a package root needs archiveUrl or sources')
  await writeFile(join(sourcesDir, 'prod.sources'), options.sources?.prod ?? stanza('prod'))
  const build = options.sources === undefined ? stanza('{build}') : options.sources.build
  if (build !== undefined) await writeFile(join(sourcesDir, 'build.sources.in'), build)
}

function packageRoot(root: string, sourcesDir: string, aptConfig: string): PackageRoot {
  const env = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: root,
    TMPDIR: join(root, 'tmp'),
    LC_ALL: 'C.UTF-8',
    DEBIAN_FRONTEND: 'noninteractive',
    APT_CONFIG: aptConfig,
  }
  const run = (program: string, args: readonly string[], options?: RunOptions): Promise<Ran> =>
    runToFile(program, args, env, join(root, 'tmp'), options?.input)
  const dpkg = (args: readonly string[], options?: RunOptions): Promise<Ran> =>
    run('dpkg', [...rootDpkgOptions(root), ...args], options)
  const mark = async (what: string, name: string): Promise<void> =>
    void must(await run('apt-mark', [what, name]), `apt-mark ${what} ${name}`)
  const at = (file: string): string => resolve(root, file)
  return {
    root,
    sourcesDir,
    aptConfig,
    env,
    dpkg,
    apt: async (args, options) => {
      const list = await sourceList(sourcesDir, join(root, 'tmp'), options?.build ?? 'prod')
      return run('apt-get', ['-y', '-o', `Dir::Etc::SourceList=${list}`, ...args], options)
    },
    status: async (name) => {
      const format = '-f${Version}\t${Status}'
      const ran = await run('dpkg-query', [`--admindir=${root}/var/lib/dpkg`, '-W', format, name])
      const [version = '', state = ''] = ran.output.split('\t')
      return ran.exitCode === 0 ? { version, state } : undefined
    },
    hold: (name) => mark('hold', name),
    markAuto: (name) => mark('auto', name),
    autoPackages: async () =>
      must(await run('apt-mark', ['showauto']), 'apt-mark showauto')
        .split('\n')
        .filter(Boolean),
    audit: async () => (await dpkg(['--audit'])).output,
    gate: (file) => ({
      reached: async () => Number(await appeared(`${at(file)}.reached`)),
      open: () => writeFile(`${at(file)}.open`, ''),
    }),
    close: async () => {
      await endDaemons(join(root, 'run'))
      await rm(root, { recursive: true, force: true })
    },
  }
}

/** The sources file of a build; that of a numbered one is made from the template, elsewhere. */
async function sourceList(sourcesDir: string, folder: string, build: string): Promise<string> {
  if (build === 'prod') return join(sourcesDir, 'prod.sources')
  const template = await readFile(join(sourcesDir, 'build.sources.in'), 'utf8')
  const path = join(folder, `${build}.sources`)
  await writeFile(path, template.replaceAll('{build}', build))
  return path
}

let runs = 0
/** Through a file, not a pipe: a daemon that a package leaves behind holds a pipe open long after the program ended. */
async function runToFile(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  folder: string,
  input: string | undefined,
): Promise<Ran> {
  runs += 1
  const path = join(folder, `${program}.${process.pid}.${runs}.out`)
  // A stream that has its descriptor already is handed to the child as it is.
  const out = createWriteStream(path, { fd: openSync(path, 'a') })
  try {
    const ran = await execa(program, args, {
      env,
      extendEnv: false,
      reject: false,
      stdio: [input === undefined ? 'ignore' : 'pipe', out, out],
      ...(input === undefined ? {} : { input }),
    })
    if (ran.exitCode === undefined) throw new Error(`${program} did not end by itself`, { cause: ran })
    const bytes = await readFile(path)
    return { exitCode: ran.exitCode, output: bytes.toString(), bytes }
  } finally {
    out.destroy()
    await rm(path, { force: true })
  }
}

function must(ran: Ran, what: string): string {
  if (ran.exitCode !== 0) throw new Error(`${what} failed with exit status ${ran.exitCode}:\n${ran.output}`)
  return ran.output
}

const APPEAR_MAX_MS = 60_000
/** The content of a file once it exists. */
export async function appeared(path: string): Promise<string> {
  for (let waitedMs = 0; waitedMs < APPEAR_MAX_MS; waitedMs += 10) {
    const text = await readIfThere(path)
    if (text !== undefined) return text
    await delay(10)
  }
  throw new Error(`${path} did not appear within ${APPEAR_MAX_MS / 1000} seconds`)
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

async function endDaemons(folder: string): Promise<void> {
  const names = (await readIfFolder(folder)).filter((name) => name.endsWith('.pid'))
  for (const name of names) endProcess(Number(await readFile(join(folder, name), 'utf8')))
}

async function readIfFolder(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid)
  } catch (error) {
    // It ended before us.
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/**
 * Captures what apt and dpkg of a release really print, with smith's own argv, environment and configuration, for the
 * tests that read it. Run by a person, as root, on trees made by mmdebstrap (captured/README.md); never by npm test.
 *
 *     unshare --mount node test/agent/apt/capture.ts TREES RELEASE...
 *
 * Each scenario meets the tree as it was made, behind an overlay of its own; what is mounted goes with the namespace.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { execa } from 'execa'
import { aptConfigText, aptEnvironment, baseConfigText, foldersToMake, updateArgv } from '../../../agent/apt/command.ts'
import { type Archive, createArchive } from '../../archive/archive.ts'
import { type ArchiveServer, serveArchive } from '../../archive/server.ts'
import { folders, ORDER, publishAll, type Scenario, scenarios } from './capture-scenarios.ts'

const target = { root: null }
const AFTER_APT_MS = 1500

async function main(trees: string, releases: readonly string[]): Promise<void> {
  const work = join(trees, '.capture')
  rmSync(work, { recursive: true, force: true })
  const archive = await createArchive({ dir: join(work, 'archive') })
  const installed = await publishAll(archive, join(work, 'debs'))
  // Always the same port, so that two captures differ only in what apt prints.
  const server = await serveArchive({ dir: archive.dir, port: 18725 })
  for (const release of releases) {
    const tree = join(work, release)
    await overlay(join(trees, release), tree)
    for (const one of installed) copyFileSync(one.path, join(tree, 'tmp', basename(one.path)))
    await execa('chroot', [tree, 'sh', '-c', 'dpkg -i /tmp/*.deb && rm /tmp/*.deb'])
    const sections = [section('about', null, [], await aboutOf(tree))]
    for (const [number, scenario] of scenarios.entries()) {
      const place = join(work, `${release}-${number}`)
      await overlay(tree, place)
      sections.push(...(await play(place, scenario, archive, server)))
      await execa('umount', ['--recursive', place])
    }
    await execa('umount', ['--recursive', tree])
    const file = join(import.meta.dirname, 'captured', `${release}.txt`)
    writeFileSync(file, sections.join(''))
    process.stdout.write(`${file}\n`)
  }
  await server.close()
  rmSync(work, { recursive: true, force: true })
}

async function overlay(lower: string, place: string): Promise<void> {
  for (const part of ['', '.up', '.work']) mkdirSync(place + part, { recursive: true })
  const options = `lowerdir=${lower},upperdir=${place}.up,workdir=${place}.work`
  await execa('mount', ['-t', 'overlay', 'overlay', '-o', options, place])
  await execa('mount', ['-t', 'proc', 'proc', join(place, 'proc')])
}

/** The release, its programs, and the head of the Release file of its own archive. */
async function aboutOf(tree: string): Promise<string> {
  const text = '. /etc/os-release; echo "$PRETTY_NAME"; apt-get --version | head -n 1; dpkg --version | head -n 1'
  const { stdout } = await execa('chroot', [tree, 'sh', '-c', text])
  const source = /^deb (?:\[.*?\] )?(\S+) (\S+)/m.exec(readFileSync(join(tree, 'etc/apt/sources.list'), 'utf8'))
  const release = await (await fetch(`${source?.[1]}/dists/${source?.[2]}/Release`)).text()
  return `${stdout}\n\n${release.replace(/^(?:MD5Sum|SHA1|SHA256):[^]*/m, '')}`
}

async function play(
  place: string,
  scenario: Scenario,
  archive: Archive,
  server: ArchiveServer,
): Promise<readonly string[]> {
  const inside = (path: string) => join(place, path)
  for (const folder of foldersToMake(folders)) mkdirSync(inside(folder), { recursive: true })
  const limits = { fetchStallMs: 1000, fetchRetriesMax: 0, lockWaitMs: 1000, locks: true }
  const options = { ...limits, install: { order: ORDER, hook: folders.hook } }
  writeFileSync(inside(folders.base), baseConfigText(target))
  writeFileSync(inside(folders.config), aptConfigText(folders, options))
  writeFileSync(inside(folders.hook), `#!/bin/sh\ncat > /hook-input\n${scenario.hook ?? ''}\n`)
  chmodSync(inside(folders.hook), 0o755)
  writeFileSync(inside('/etc/apt/smith.asc'), (scenario.key ?? archive.key).publicArmored)
  const where = `URIs: ${scenario.uri ?? server.url}\nSuites: ${scenario.suite ?? 'good'}`
  writeFileSync(inside(folders.sources), `Types: deb\n${where}\nComponents: main\nSigned-By: /etc/apt/smith.asc\n`)

  if (!Object.keys(scenario.run).some((name) => name.startsWith('update-'))) await run(place, updateArgv(folders))
  if (scenario.before !== undefined)
    await execa('chroot', [place, 'sh', '-c', scenario.before], { env: aptEnvironment(target, folders, null) })
  if (scenario.tmpfs !== undefined) {
    await execa('mount', ['-t', 'tmpfs', '-o', scenario.tmpfs[1], 'tmpfs', inside(scenario.tmpfs[0])])
    if (scenario.tmpfs[0] === folders.archives) mkdirSync(inside(join(folders.archives, 'partial')))
  }
  const lift = scenario.rule === undefined ? () => {} : server.misbehave(scenario.rule)
  const unlock = scenario.locked === undefined ? () => {} : await lock(place, scenario.locked)
  const sections: string[] = []
  for (const [name, argv] of Object.entries(scenario.run)) {
    const ended = await run(place, argv)
    // dpkg goes on without an apt that was killed, and its output is part of what is read.
    if (ended.how.startsWith('SIG')) await pause(AFTER_APT_MS)
    sections.push(section(name, ended.how, argv, readFileSync(inside('/output'), 'utf8')))
  }
  lift()
  unlock()
  for (const [name, path] of Object.entries(scenario.files ?? {}))
    sections.push(
      section(name, null, ['cat', path], existsSync(inside(path)) ? readFileSync(inside(path), 'utf8') : ''),
    )
  return sections
}

async function run(place: string, argv: readonly string[]): Promise<{ readonly how: string }> {
  const output = openSync(join(place, 'output'), 'w')
  const statusFd = openSync(join(place, 'status-fd'), 'a')
  const child = spawn('chroot', [place, ...argv], {
    stdio: ['ignore', output, output, statusFd],
    env: aptEnvironment(target, folders, ORDER),
    cwd: '/',
  })
  for (const fd of [output, statusFd]) closeSync(fd)
  const [status, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { how: signal ?? String(status) }
}

/** Another process takes the lock as apt and dpkg do (fcntl, through perl, which every release has). */
async function lock(place: string, path: string): Promise<() => void> {
  const text =
    'use Fcntl; $|=1; open F, "+>>", $ARGV[0]; my $l = pack("s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; print "held\\n"; sleep 60'
  const child = spawn('chroot', [place, 'perl', '-e', text, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const held = once(child.stdout, 'data').then(() => true)
  const ended = once(child, 'close').then(() => false)
  if (!(await Promise.race([held, ended]))) throw new Error(`${path} could not be locked in ${place}`)
  return () => child.kill('SIGKILL')
}

/** How it ended is an exit status, a signal, or `-` for a file. */
function section(name: string, how: string | null, argv: readonly string[], text: string): string {
  return `##### ${name} (${how ?? '-'}) ${argv.join(' ')}\n${text}\n`
}

await main(process.argv[2] ?? '', process.argv.slice(3))

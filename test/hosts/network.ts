/**
 * A bridge with a private network that only the hosts of one owner use. Called by site.ts and the tests. What the
 * owner starts on this side of the bridge listens on the bridge's address; there is no way out for a host.
 * Invariant: everything that an owner makes on this machine bears the bridge's name, and a file in /run says who the
 * owner is: what a dead owner left is found by that name and removed before anything new is made.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cgroupRoots } from './base.ts'
import { must, run, until } from './commands.ts'

const REGISTRY = '/run/smith-hosts'
const PREFIX = 'smh'

export type Network = {
  /** Of the bridge; hosts, control groups and mounts begin with it. */
  readonly name: string
  /** Of the bridge on this side. */
  readonly address: string
  readonly addressOf: (number: number) => string
  readonly close: () => Promise<void>
}

/** Takes a free network; first removes what dead owners left. */
export async function createNetwork(): Promise<Network> {
  await sweep()
  const inUse = await must(['ip', '-o', 'address'])
  for (let number = 1; number < 255; number += 1) {
    const name = `${PREFIX}${number}`
    if (inUse.includes(` 10.213.${number}.`) || !claim(name)) continue
    const made = await run(['ip', 'link', 'add', name, 'type', 'bridge'])
    if (made.status !== 0) {
      release(name)
      throw new Error(`no bridge could be made: ${made.stderr.trim()}`)
    }
    await must(['ip', 'address', 'add', `10.213.${number}.1/24`, 'dev', name])
    await must(['ip', 'link', 'set', name, 'up'])
    return {
      name,
      address: `10.213.${number}.1`,
      addressOf: (host) => `10.213.${number}.${10 + host}`,
      close: async () => {
        await clean(name)
        release(name)
      },
    }
  }
  throw new Error('all 254 networks for hosts are in use')
}

type Owner = { readonly pid: number; readonly startedAt: string }

function claim(name: string): boolean {
  mkdirSync(REGISTRY, { recursive: true })
  if (readdirSync(REGISTRY).some((file) => file.startsWith(`${name}.`))) return false
  const owner: Owner = { pid: process.pid, startedAt: startOf(process.pid) ?? '' }
  try {
    writeFileSync(join(REGISTRY, `${name}.json`), JSON.stringify(owner), { flag: 'wx' })
    return true
  } catch (error) {
    // Another owner was quicker.
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function release(name: string): void {
  rmSync(join(REGISTRY, `${name}.json`), { force: true })
}

/** The kernel's start time of a process, which tells it from a later one with the same id. */
export function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? null : (fields[19] ?? null)
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  }
}

function isAlive(owner: Owner): boolean {
  return startOf(owner.pid) === owner.startedAt
}

/** Removes what owners that died left; gives the names of what was swept. */
export async function sweep(): Promise<readonly string[]> {
  if (!existsSync(REGISTRY)) return []
  const swept: string[] = []
  for (const file of readdirSync(REGISTRY)) {
    const [, name, sweeper] = /^(smh[0-9]+)\.json(?:\.sweep-([0-9]+))?$/.exec(file) ?? []
    if (name === undefined) continue
    if (sweeper !== undefined ? startOf(Number(sweeper)) !== null : isOwned(file)) continue
    const mine = join(REGISTRY, `${name}.json.sweep-${process.pid}`)
    // Of two that sweep, one gets the file: the other must not touch what a new owner may make meanwhile.
    if (!takes(join(REGISTRY, file), mine)) continue
    await clean(name)
    rmSync(mine, { force: true })
    swept.push(name)
  }
  return swept
}

function isOwned(file: string): boolean {
  try {
    return isAlive(JSON.parse(readFileSync(join(REGISTRY, file), 'utf8')) as Owner)
  } catch (error) {
    // Gone in the meantime, or just being written: whoever writes it is alive.
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return true
    throw error
  }
}

function takes(from: string, to: string): boolean {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

/** Ends every process, mount, control group and link that bears the name. */
async function clean(name: string): Promise<void> {
  for (const group of groupsOf(name)) await endGroup(group)
  await unmountOf(name)
  const links = await must(['ip', '-o', 'link'])
  for (const [, link] of links.matchAll(/^\d+: (\S+?)[@:]/gm)) {
    if (link === name || link?.startsWith(`vb-${name}-`) === true) await run(['ip', 'link', 'delete', link])
  }
}

/** The control groups of the owner's hosts, or of one host. */
function groupsOf(name: string): string[] {
  return cgroupRoots().flatMap((root) =>
    readdirSync(root)
      .filter((group) => group.startsWith(`${name}-`))
      .map((group) => join(root, group)),
  )
}

/** Kills whatever lives in a control group and removes it. */
export async function endGroup(group: string): Promise<void> {
  if (!existsSync(group)) return
  const folders = [
    group,
    ...readdirSync(group, { recursive: true, withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory() ? [join(entry.parentPath, entry.name)] : [],
    ),
  ]
  // The deepest first, since a control group that holds another can't be removed.
  for (const folder of folders.toReversed().toSorted((a, b) => b.length - a.length)) {
    await until(`the end of ${folder}`, () => {
      const pids = readIfThere(join(folder, 'cgroup.procs')).split('\n').filter(Boolean).map(Number)
      for (const pid of pids) killIfThere(pid)
      return pids.length === 0
    })
    await until(
      `the removal of ${folder}`,
      async () => !existsSync(folder) || (await run(['rmdir', folder])).status === 0,
      30_000,
    )
  }
}

/** Unmounts what was mounted under the name; the newest first. */
export async function unmountOf(name: string): Promise<void> {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  for (const line of mounts.toReversed()) {
    const [source = '', place = ''] = line.split(' ')
    if (source === name || source.startsWith(`${name}-`)) await must(['umount', '--recursive', place])
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return ''
    throw error
  }
}

export function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // It ended by itself in the meantime.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Where a run is, by the machine's own files, and the processes that are at it, by the locks that they hold. Both are
 * read at the moment of a kill, with the runner stopped, so that a kill is counted where it really came.
 */
import { type FSWatcher, readFileSync, readdirSync, statSync, watch } from 'node:fs'
import { join } from 'node:path'
import { STEPS } from '../../protocol/files.ts'
import type { SiteMachine } from '../demo/site.ts'

export const ACTORS = ['coordinator', 'agent', 'runner', 'wrapper'] as const
export type Actor = (typeof ACTORS)[number]
/** The steps of a run, and what lies around it: the plan is made, the grant is on the machine, the result is on disk. */
export const STAGES = ['plan', 'granted', ...STEPS.filter((step) => step !== 'reboot'), 'result'] as const
/** What is looked at of a machine. */
export type OnDisk = Pick<SiteMachine, 'name' | 'dir' | 'stateDir'>
export type Stage = (typeof STAGES)[number]
export type Place = { readonly order: string; readonly stage: Stage }

/** Who can be killed where: a runner lives from the grant to the result, a wrapper from the latch to the end of apt. */
export function livesIn(actor: Actor, stage: Stage): boolean {
  if (actor === 'runner') return stage !== 'plan' && stage !== 'result'
  if (actor === 'wrapper') return stage === 'latch' || stage === 'install'
  return true
}

export const CELLS = ACTORS.flatMap((actor) =>
  STAGES.filter((stage) => livesIn(actor, stage)).map((stage) => ({ actor, stage })),
)

export function textIn(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

export const ordersFolderOf = (machine: OnDisk) => join(machine.stateDir, 'run/orders')
const ORDER = /^[0-9a-f]{32}$/

/** The place of the order at work that is not among the `known`, else of the last one that ended; null without any. */
export function placeOn(machine: OnDisk, known: ReadonlySet<string>): Place | null {
  const orders = namesIn(ordersFolderOf(machine)).filter((name) => ORDER.test(name) && !known.has(name))
  const places = orders.map((order) => ({ order, stage: stageOf(join(ordersFolderOf(machine), order)) }))
  const atWork = places.find((place) => place.stage !== 'result')
  if (atWork !== undefined) return atWork
  for (const folder of ['inbox', 'run/taken']) {
    const name = namesIn(join(machine.stateDir, folder)).find((one) => one.startsWith('grant-'))
    const order = name?.slice('grant-'.length, -'.json'.length)
    if (order !== undefined && !known.has(order) && !orders.includes(order)) return { order, stage: 'granted' }
  }
  return places.at(-1) ?? null
}

function stageOf(folder: string): Stage {
  if (!textIn(join(folder, 'fate')).includes('"claim"')) return 'granted'
  const records = textIn(join(folder, 'records'))
  if (records.includes('"type":"result"')) return 'result'
  const [, step] = /.*"type":"step","step":"([a-z-]+)"/s.exec(records) ?? []
  return STAGES.find((stage) => stage === step) ?? 'claim'
}

/** The pid that took the lock of this file, when what runs under it is still the program meant. */
function holderOf(path: string, program: string): number | null {
  const inode = statSync(path, { throwIfNoEntry: false })?.ino
  if (inode === undefined) return null
  const line = readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .find((one) => one.includes('FLOCK') && !one.includes('->') && one.includes(`:${inode} `))
  const pid = Number(/WRITE\s+([0-9]+)/.exec(line ?? '')?.[1] ?? 0)
  // The lock outlives a killed wrapper in the hands of apt, which is nobody's to kill.
  return pid > 0 && textIn(`/proc/${pid}/cmdline`).includes(program) ? pid : null
}

export const runnerOf = (machine: OnDisk) => holderOf(join(machine.stateDir, 'run/runner.lock'), 'runner/main.ts')
export const wrapperOf = (machine: OnDisk, order: string) =>
  holderOf(join(ordersFolderOf(machine), order, 'lock'), 'runner/wrapper.ts')

export type Watch = { readonly stop: () => void }

/** Calls back, at once, whenever the one new order of the machine has come to another place. */
export function watchPlaces(machine: OnDisk, known: ReadonlySet<string>, onPlace: (place: Place) => void): Watch {
  const watchers = new Map<string, FSWatcher>()
  let last = ''
  const look = (): void => {
    follow(join(machine.stateDir, 'inbox'))
    follow(join(machine.stateDir, 'run'))
    follow(ordersFolderOf(machine))
    const place = placeOn(machine, known)
    if (place === null) return
    follow(join(ordersFolderOf(machine), place.order))
    if (last === `${place.order} ${place.stage}`) return
    last = `${place.order} ${place.stage}`
    onPlace(place)
  }
  const follow = (folder: string): void => {
    if (watchers.has(folder) || statSync(folder, { throwIfNoEntry: false }) === undefined) return
    watchers.set(folder, watch(folder, look))
  }
  look()
  return {
    stop: () => {
      for (const watcher of watchers.values()) watcher.close()
    },
  }
}

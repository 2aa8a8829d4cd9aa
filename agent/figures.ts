/**
 * `smith-agent figures`: what the running agent costs this machine, read from the kernel's own counts in /proc
 * (proc(5)) at both ends of a span. Called by program.ts. Reads only, and wakes the agent not once.
 */
import { lstatSync, readFileSync, readdirSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { RefusedError } from '../protocol/errors.ts'
import { readAgentConfig } from './config.ts'
import { layoutOf } from './disk/layout.ts'
import { packageVersion } from './facts.ts'
import { problemOf } from './session/guard.ts'
import { agentProcess } from './status.ts'

/** What the kernel says of a process at one moment. */
export type Sample = {
  /** All pages in memory, those of files too, which other programs may share and the kernel may drop. */
  readonly residentBytes: number
  /** The same, each page divided by how many share it. */
  readonly proportionalBytes: number
  /** What only swapping would free. */
  readonly anonymousBytes: number
  /** Since its start. */
  readonly processorTicks: number
  /** How often its threads went to sleep since its start, and so were woken. */
  readonly wakeUps: number
  readonly threads: number
}

export type Figures = Omit<Sample, 'processorTicks'> & {
  readonly version: string
  readonly pid: number
  readonly minutes: number
  /** Within the span, as `wakeUps`. */
  readonly processorMs: number
  readonly wakeUpsPerMinute: number
  /** Of the package's files; null where there is no package (a checkout). */
  readonly diskBytes: number | null
}

/** The files of /proc, or of a test. */
export type Files = { readonly read: (path: string) => string; readonly list: (path: string) => readonly string[] }
const REAL_FILES: Files = { read: (path) => readFileSync(path, 'utf8'), list: (path) => readdirSync(path) }

/** A tick of /proc/PID/stat, the same on every architecture that smith runs on (CLK_TCK is 100). */
const TICK_MS = 10
const PACKAGE_LIST = '/var/lib/dpkg/info/smith-agent.list'

export async function readFigures(
  configFile: string,
  minutes: number,
  onStart: (pid: number) => void,
): Promise<Figures> {
  const layout = layoutOf(readAgentConfig(configFile).stateDir)
  const pid = orRefuse(`the state in ${layout.agent}`, () => agentProcess(layout))
  if (pid === null)
    throw new RefusedError([
      { kind: 'not-found', message: 'no agent runs on this machine', remedy: 'Type: systemctl start smith-agent' },
    ])
  const before = sampleOf(REAL_FILES, pid)
  onStart(pid)
  await delay(minutes * 60_000)
  return figuresOf({ pid, minutes, before, after: sampleOf(REAL_FILES, pid), diskBytes: packageBytes(REAL_FILES) })
}

export function figuresOf(span: {
  readonly pid: number
  readonly minutes: number
  readonly before: Sample
  readonly after: Sample
  readonly diskBytes: number | null
}): Figures {
  const { pid, minutes, before, after, diskBytes } = span
  const { processorTicks, ...now } = after
  const wakeUps = after.wakeUps - before.wakeUps
  return {
    version: packageVersion(),
    pid,
    minutes,
    ...now,
    processorMs: (processorTicks - before.processorTicks) * TICK_MS,
    wakeUps,
    wakeUpsPerMinute: Math.round((wakeUps / minutes) * 10) / 10,
    diskBytes,
  }
}

/** Throws a RefusedError when the process is gone, or is someone else's and we are not root. */
export function sampleOf(files: Files, pid: number): Sample {
  return orRefuse(`process ${pid}`, () => {
    const memory = files.read(`/proc/${pid}/smaps_rollup`)
    const stat = files.read(`/proc/${pid}/stat`)
    const tasks = files.list(`/proc/${pid}/task`).map((task) => files.read(`/proc/${pid}/task/${task}/status`))
    // The name of the program, in brackets, may hold blanks and brackets itself; utime and stime are 14th and 15th.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return {
      residentBytes: 1024 * numberIn(memory, /^Rss: +(\d+) kB$/m),
      proportionalBytes: 1024 * numberIn(memory, /^Pss: +(\d+) kB$/m),
      anonymousBytes: 1024 * numberIn(memory, /^Anonymous: +(\d+) kB$/m),
      processorTicks: Number(fields[11]) + Number(fields[12]),
      wakeUps: tasks.reduce((sum, task) => sum + numberIn(task, /^voluntary_ctxt_switches:\s+(\d+)$/m), 0),
      threads: tasks.length,
    }
  })
}

function orRefuse<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const isForbidden = code === 'EACCES' || code === 'EPERM'
    throw new RefusedError([
      {
        kind: isForbidden ? 'not-allowed' : 'not-found',
        message: `${what} can't be read: ${problemOf(error)}`,
        remedy: isForbidden
          ? 'Run the command as root; others may not look at the memory of the agent.'
          : 'See with `smith-agent status` whether the agent runs, and begin again.',
      },
    ])
  }
}

function numberIn(text: string, pattern: RegExp): number {
  const found = pattern.exec(text)?.[1]
  if (found === undefined) throw new Error(`nothing in there is like ${pattern.source}`)
  return Number(found)
}

/** What the files take on the disk, in whole blocks. */
function packageBytes(files: Files): number | null {
  let list: string
  try {
    list = files.read(PACKAGE_LIST)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  return list.split('\n').reduce((sum, path) => {
    const facts = path === '' ? undefined : lstatSync(path, { throwIfNoEntry: false })
    return facts?.isFile() === true ? sum + facts.blocks * 512 : sum
  }, 0)
}

export function figuresText(figures: Figures): string {
  const megabytes = (bytes: number) => `${(bytes / 1_000_000).toFixed(1).padStart(7)} MB`
  const count = (value: number) => String(value).padStart(7)
  const share = (figures.processorMs / (figures.minutes * 60_000)) * 100
  return [
    `smith-agent ${figures.version}, process ${figures.pid}, over ${figures.minutes} minutes`,
    `Resident:     ${megabytes(figures.residentBytes)}   with the pages of Node's own file, which the kernel can drop`,
    `Proportional: ${megabytes(figures.proportionalBytes)}   the same, what is shared divided by its users`,
    `Anonymous:    ${megabytes(figures.anonymousBytes)}   what the agent itself has taken`,
    `Processor:    ${count(figures.processorMs)} ms   ${share.toFixed(3)} % of one, counted in steps of ${TICK_MS} ms`,
    `Wake-ups:     ${count(figures.wakeUps)}      ${figures.wakeUpsPerMinute} a minute, of ${figures.threads} threads together`,
    `On disk:      ${figures.diskBytes === null ? '  nothing, it is no package' : megabytes(figures.diskBytes)}`,
    '',
  ].join('\n')
}

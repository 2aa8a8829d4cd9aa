/** Finds the processes of a site by what they are, and kills them as nobody asks: SIGKILL. */
import { readFileSync, readdirSync } from 'node:fs'
import type { Site, SiteMachine } from '../demo/site.ts'

export const VICTIMS = ['coordinator', 'agent', 'runner', 'wrapper', 'all'] as const
export type Victim = (typeof VICTIMS)[number]

/** Process ids whose command line has all of these words. */
export function pidsWith(...words: readonly string[]): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    const line = commandLineOf(name)
    return line !== null && words.every((word) => line.includes(word)) ? [Number(name)] : []
  })
}

function commandLineOf(pid: string): string | null {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
  } catch {
    // It ended while we looked, so it is none of those that we look for.
    return null
  }
}

function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch (error) {
      // It ended by itself in the meantime.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
}

export const runnersOf = (machine: SiteMachine) => pidsWith('runner/main.ts', machine.configFile)
export const wrappersOf = (machine: SiteMachine) => pidsWith('runner/wrapper.ts', machine.stateDir)

/** Kills the victim and starts again what nothing else would; the runner is the agent's to start. */
export async function kill(site: Site, machine: SiteMachine, victim: Victim): Promise<void> {
  const isAll = victim === 'all'
  if (victim === 'runner' || isAll) killAll(runnersOf(machine))
  if (victim === 'wrapper' || isAll) killAll(wrappersOf(machine))
  if (victim === 'agent' || isAll) await machine.agent?.stop('SIGKILL')
  if (victim === 'coordinator' || isAll) await site.coordinator?.stop('SIGKILL')
  // An agent that came back in between may have started a runner anew; of all, none is to be left at this point.
  if (isAll) killAll(runnersOf(machine))
  if (victim === 'coordinator' || isAll) await site.startCoordinator()
  if (victim === 'agent' || isAll) await machine.startAgent()
}

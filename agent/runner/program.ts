/** The runner on this machine's disk, clock and processes, until nothing is left to do; main.ts holds its lock. */
import { fileURLToPath } from 'node:url'
import type { AgentConfig } from '../config.ts'
import { layoutOf, orderLayoutOf } from '../disk/layout.ts'
import { dpkgLocksOf } from '../apt/preflight.ts'
import { knownOrders, lastRecord } from '../disk/order-state.ts'
import { readExit, readLatch } from './command-file.ts'
import { createRealPorts } from './real-ports.ts'
import { createRunner } from './runner.ts'

/** Not 0: an order may be left, and whoever keeps the runner has to start it again. */
const ENDED_BY_SIGNAL = 143

export async function runUntilIdle(config: AgentConfig): Promise<void> {
  const layout = layoutOf(config.stateDir)
  const ports = await createRealPorts()
  const isLocked = (path: string) => ports.lockHolder(path) !== null
  const isInstalling = () =>
    knownOrders(ports.disk, layout).some((order) => {
      const files = orderLayoutOf(layout, order)
      if (readLatch(ports.disk, files)?.by !== 'wrapper' || lastRecord(ports.disk, files)?.type === 'result')
        return false
      // What comes after apt can wait for the next start: at a shutdown units stop while it is looked at.
      if (readExit(ports.disk, files) !== null) return false
      return isLocked(files.lock) || dpkgLocksOf({ root: config.aptRoot }).some(isLocked)
    })
  // A shutdown must not overtake apt, so the runner stays until apt has ended; before the latch it may go at once.
  const leave = () => {
    if (!isInstalling()) process.exit(ENDED_BY_SIGNAL)
    setTimeout(leave, config.limits.pollMs)
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, leave)
  // In a checkout they are sources beside this one, in a package bundles beside the bundle that this is part of.
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'mjs'
  const here = (name: string) => fileURLToPath(new URL(`${name}.${suffix}`, import.meta.url))
  const programs = { node: process.execPath, wrapper: here('wrapper'), hook: here('hook') }
  return new Promise((resolve) => {
    createRunner(ports, config, programs, resolve).start()
  })
}

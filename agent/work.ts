/**
 * The agent's errands for real: planning and downloading with apt in child processes, the runner as a detached
 * process, the watching of folders. Used by main's `run`; every one of these is bounded in time, except the runner,
 * which outlives the agent on purpose.
 */
import { cpSync, existsSync, watch as watchFolder } from 'node:fs'
import { join } from 'node:path'
import type { Refusal } from '../protocol/errors.ts'
import type { Plan } from '../protocol/plan.ts'
import { aptEnvironment, aptFoldersOf, fetchArgv } from './apt/command.ts'
import { createRealMachine, failureOf, planOnce, prepareFolders, updateSpec } from './apt/planning.ts'
import { type Processes, createRealProcesses, runProcess } from './apt/processes.ts'
import type { AgentConfig } from './config.ts'
import { type Disk, readIfExists } from './disk/disk.ts'
import type { Layout } from './disk/layout.ts'
import { collectorCommand, runnerCommand } from './disk/runner-command.ts'
import type { AgentPorts, Cancel, Log, PlanAnswer } from './ports.ts'
import { problemOf } from './session/guard.ts'

const RUNNER_OUTPUT_BYTES_MAX = 1_048_576
const RUNNER_ENVIRONMENT = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' }

export type WorkPorts = {
  readonly config: AgentConfig
  readonly disk: Disk
  readonly layout: Layout
  readonly log: Log
}

/** Loads what starts processes when the first is to be started. */
function lazyProcesses(): () => Promise<Processes> {
  let loaded: Promise<Processes> | null = null
  return () => (loaded ??= createRealProcesses())
}

export function createWork({
  config,
  disk,
  layout,
  log,
}: WorkPorts): Pick<AgentPorts, 'plan' | 'prefetch' | 'startRunner' | 'startCollector' | 'watch'> {
  const processes = lazyProcesses()
  const machine = createRealMachine()
  return {
    plan: (query, done) =>
      later<PlanAnswer>(
        log,
        async () => {
          const answer = await planOnce(
            { disk, machine, processes: await processes(), now: Date.now },
            { config, ...query, folder: layout.agentPlanning },
          )
          return 'plan' in answer ? answer : { refusal: answer }
        },
        (problem) => ({ refusal: planningFailed(problem) }),
        done,
      ),
    prefetch: (offer, done) =>
      later<string | null>(
        log,
        async () => prefetch({ config, disk, layout, log }, await processes(), offer),
        (problem) => problem,
        done,
      ),
    startRunner:
      config.runMode === 'detached' ? (onExit) => startRunner({ config, disk, layout, log }, processes, onExit) : null,
    ...(config.runMode === 'detached'
      ? { startCollector: () => startCollector({ config, disk, layout, log }, processes) }
      : {}),
    watch: (folder, onChange) => watchQuietly(folder, onChange, log),
  }
}

/** Does work that waits and calls back with its answer, also when it fails, but not once it was cancelled. */
function later<T>(
  log: Log,
  work: () => Promise<T>,
  onFailure: (problem: string) => T,
  done: (answer: T) => void,
): Cancel {
  let isWanted = true
  const run = async () => {
    let answer: T
    try {
      answer = await work()
    } catch (error) {
      log.error({ problem: problemOf(error) }, 'an errand failed')
      answer = onFailure(problemOf(error))
    }
    if (isWanted) done(answer)
  }
  void run()
  return () => {
    isWanted = false
  }
}

function planningFailed(problem: string): Refusal {
  return {
    kind: 'internal',
    message: `planning failed: ${problem}`,
    remedy: 'See the journal of smith-agent on the machine.',
  }
}

/** Null when all that the plan names lies in the order's own cache. */
async function prefetch(
  { config, disk, layout }: WorkPorts,
  processes: Processes,
  offer: { readonly order: string; readonly plan: Plan },
): Promise<string | null> {
  if (offer.plan.installs.length === 0) return null
  const folders = aptFoldersOf(join(layout.prefetch, offer.order))
  const lists = aptFoldersOf(layout.agentPlanning).lists
  const { fetchStallMs, fetchRetriesMax, lockWaitMs, fetchMs } = config.limits
  const refusal = prepareFolders({ disk, machine: createRealMachine() }, config, folders, offer.plan.build, {
    fetchStallMs,
    fetchRetriesMax,
    lockWaitMs,
    locks: false,
    install: null,
  })
  if (refusal !== null) return refusal.message
  // The lists of the last planning save a download; apt checks them against the signed index in any case.
  if (existsSync(lists))
    cpSync(lists, folders.lists, {
      recursive: true,
      preserveTimestamps: true,
      filter: (path) => !path.endsWith('/partial') && !path.endsWith('/lock'),
    })
  const update = updateSpec(config, folders)
  const fetch = {
    ...update,
    argv: fetchArgv(folders),
    environment: aptEnvironment({ root: config.aptRoot }, folders, null),
    timeLimitMs: fetchMs,
  }
  for (const [spec, step] of [
    [update, 'update'],
    [fetch, 'fetch'],
  ] as const) {
    disk.remove(folders.output)
    const ended = await runProcess(processes, spec)
    const failed = failureOf(ended, readIfExists(disk, folders.output)?.toString('utf8') ?? '', step)
    if (failed !== null) return `${step} failed (${failed.cause}): ${failed.message}`
  }
  return null
}

function startRunner(
  { config, disk, layout, log }: WorkPorts,
  processes: () => Promise<Processes>,
  onExit: (status: number | null) => void,
): void {
  const output = join(layout.agent, 'runner-output')
  const work = async () => {
    const { start } = await processes()
    // Only what a runner says before it has its own log goes here, so a long file is of no use to anyone.
    if ((disk.factsOf(output)?.size ?? 0) > RUNNER_OUTPUT_BYTES_MAX) disk.truncate(output, 0)
    const argv = runnerCommand(config.file)
    log.info({ argv }, 'starting the runner')
    start(
      { argv, environment: RUNNER_ENVIRONMENT, folder: '/', output, timeLimitMs: null, diesWithUs: false },
      (ended) => {
        if (ended.problem !== null) log.error({ argv, problem: ended.problem }, 'the runner could not be started')
        onExit(ended.status)
      },
    )
  }
  void work().catch((error: unknown) => {
    log.error({ problem: problemOf(error), output }, 'the runner could not be started')
    onExit(null)
  })
}

/** It ends by itself; what it can't do it says in the file that the runner's complaints go to. */
function startCollector({ config, layout, log }: WorkPorts, processes: () => Promise<Processes>): void {
  const spec = {
    argv: collectorCommand(config.file),
    environment: RUNNER_ENVIRONMENT,
    folder: '/',
    output: join(layout.agent, 'runner-output'),
    timeLimitMs: null,
    diesWithUs: false,
  }
  const onFailure = (problem: string | null) => {
    if (problem !== null)
      log.error({ argv: spec.argv, problem }, 'the collector of health reports could not be started')
  }
  void processes().then(
    ({ start }) => start(spec, (ended) => onFailure(ended.problem)),
    (error: unknown) => onFailure(problemOf(error)),
  )
}

function watchQuietly(folder: string, onChange: () => void, log: Log): () => void {
  try {
    const watcher = watchFolder(folder, { persistent: false }, onChange)
    watcher.on('error', (error) =>
      log.debug({ folder, problem: error.message }, 'a folder can not be watched; it is looked at from time to time'),
    )
    return () => watcher.close()
  } catch (error) {
    log.debug({ folder, problem: problemOf(error) }, 'a folder can not be watched; it is looked at from time to time')
    return () => {}
  }
}

/**
 * Shows a project while it goes on: a calm block in place on a terminal, one line per change elsewhere, one JSON
 * status per change for programs. Called by `patch --wait` and `status --watch`. It ends with the project; a
 * coordinator out of reach is said once and waited for.
 */
import { unreachable } from '../../protocol/errors.ts'
import type { ProjectView } from '../../protocol/http.ts'
import type { MachineStatus, ProjectState, Status, Stop } from '../../protocol/status.ts'
import type { Client } from '../client/client.ts'
import type { Context } from './context.ts'
import { follow } from './follow.ts'
import { type LiveLine, createLive } from './live.ts'
import { createLineMaker, createLogReader } from '../client/log-reader.ts'
import { statusLines } from './status-text.ts'
import { clockText, jsonText, spanText, visible } from '../client/text.ts'

const LOG_LINES_SHOWN = 6
const GAP_MS = 150

/** The last status: the end of the project, or what it was when the person left. */
export async function followProject(context: Context, client: Client, change: string): Promise<Status | null> {
  const { io } = context
  if (context.json) return followWith(context, client, change, jsonShow(context))
  return followWith(context, client, change, io.stdout.isTTY ? blockShow(context, client, change) : lineShow(context))
}

export function isClosed(state: ProjectState): boolean {
  return state === 'complete' || state === 'failed' || state === 'cancelled'
}

/** Exit status 0 only when every machine that was to be patched passed. */
export function isFullSuccess(status: Status): boolean {
  const { fail, unknown, cancelled } = status.totals
  return status.state === 'complete' && fail + unknown + cancelled === 0
}

type Show = {
  readonly onView: (view: ProjectView) => Promise<void>
  readonly onReach: (lost: string | null) => void
  readonly end: () => Promise<void>
}

async function followWith(context: Context, client: Client, change: string, show: Show): Promise<Status | null> {
  let last: Status | null = null
  const refresh = async () => {
    const view = await client.call('project', { params: { change } })
    last = view.status
    await show.onView(view)
    return isClosed(view.status.state)
  }
  const known = () => machinesOf(last).map((machine) => machine.name)
  try {
    await follow(
      context.io,
      client,
      {
        refresh,
        onReach: show.onReach,
        gapMs: GAP_MS,
        concerns: (row) =>
          row.facts.some(
            (fact) =>
              fact.change === change ||
              (fact.machine !== undefined && known().includes(fact.machine)) ||
              fact.fact === 'frozen' ||
              fact.fact === 'unfrozen',
          ),
      },
      context.signal,
    )
  } finally {
    await show.end()
  }
  return last
}

function machinesOf(status: Status | null): MachineStatus[] {
  return (status?.phases ?? []).flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))
}

function jsonShow(context: Context): Show {
  let shown = ''
  return {
    onView: async ({ status }) => {
      const text = jsonText(status)
      if (text !== shown) await context.out(text)
      shown = text
    },
    onReach: (lost) => void context.note(reachText(lost)),
    end: async () => {},
  }
}

const reachText = (lost: string | null) =>
  lost === null ? 'The coordinator is back.' : `${visible(lost)}; waiting for it, the work goes on without smith's CLI.`

/** Elsewhere than on a terminal: one line for each thing that changed between two looks. */
function lineShow(context: Context): Show {
  let before: Status | null = null
  return {
    onView: async (view) => {
      const at = clockText(context.io.now())
      for (const line of changedLines(before, view.status)) await context.out(`${at} ${line}`)
      before = view.status
      if (isClosed(view.status.state)) await context.out(statusLines(view.text, context.paint).join('\n'))
    },
    onReach: (lost) => void context.note(reachText(lost)),
    end: async () => {},
  }
}

/** What is new in `now`; with nothing before, what there is. */
export function changedLines(before: Status | null, now: Status): string[] {
  const name = now.change ?? 'the project'
  const lines: string[] = []
  if (before?.state !== now.state) lines.push(`${name} ${now.state}`)
  const known = new Map(machinesOf(before).map((machine) => [machine.name, machineText(machine)]))
  for (const machine of machinesOf(now)) {
    const text = machineText(machine)
    const isNews = before === null ? machine.state !== 'planned' : known.get(machine.name) !== text
    if (isNews) lines.push(text)
  }
  if (now.stop !== null && stopText(now.stop) !== (before?.stop ? stopText(before.stop) : null)) {
    lines.push(...stopText(now.stop).split('\n'))
  }
  if (now.stop === null && before?.stop && !isClosed(now.state)) lines.push(`${name} goes on`)
  return lines.map(visible)
}

function machineText(machine: MachineStatus): string {
  const parts = [machine.name, machine.state]
  if (isAtWork(machine) && machine.step !== null) parts.push(machine.step)
  if (machine.attempt > 1) parts.push(`try ${machine.attempt}`)
  if (machine.cause !== null) parts.push(`(${machine.cause})`)
  const why = machine.message ?? machine.reason
  return parts.join(' ') + (why === null || why === '' || isAtWork(machine) ? '' : `: ${why}`)
}

function stopText(stop: Stop): string {
  return `${stop.kind === 'hold' ? 'Held' : 'Waiting'}: ${stop.reason}${stop.lift === '' ? '' : `\nLift: ${stop.lift}`}`
}

function isAtWork(machine: MachineStatus): boolean {
  return ['granted', 'running', 'rebooting', 'verifying'].includes(machine.state)
}

function blockShow(context: Context, client: Client, change: string): Show {
  const { io, paint } = context
  const live = createLive(io)
  const reader = createLogReader(client, { change }, { tail: LOG_LINES_SHOWN * 2, onGap: () => {} })
  const lines = createLineMaker(0)
  let tail: string[] = []
  let view: ProjectView | null = null
  let lost: string | null = null
  let cancelTick = () => {}
  const draw = () => {
    if (view !== null) live.draw(blockLines(view, { tail, lost, now: io.now() }, paint))
  }
  const tick = () => {
    draw()
    cancelTick = io.after(1000, tick)
  }
  tick()
  return {
    onView: async (next) => {
      await reader.readNew((order, record) => {
        tail = [...tail, ...lines.take(order, record)].slice(-LOG_LINES_SHOWN)
        return Promise.resolve()
      })
      view = next
      draw()
    },
    onReach: (why) => {
      lost = why
      draw()
    },
    end: async () => {
      cancelTick()
      const closed = view !== null && isClosed(view.status.state)
      live.end(!closed)
      if (view !== null && closed) await context.out(statusLines(view.text, paint).join('\n'))
    },
  }
}

/** The block: header, totals, what is going on, what stops it and how to lift that, the last lines of output. */
export function blockLines(
  view: ProjectView,
  shown: { readonly tail: readonly string[]; readonly lost: string | null; readonly now: number },
  paint: Context['paint'],
): LiveLine[] {
  const { status } = view
  const [header = '', totals = ''] = view.text.split('\n')
  const lines: LiveLine[] = [
    { text: visible(header), paint: paint.strong },
    { text: visible(totals) },
    { text: `State: ${status.state}`, paint: paintOfState(status.state, paint) },
  ]
  for (const machine of machinesOf(status).filter(isAtWork)) {
    const since = machine.startedAt === null ? '' : ` for ${spanText(shown.now - machine.startedAt)}`
    const progress = machine.progress === null ? '' : ` ${machine.progress}`
    lines.push({
      text: visible(`Now: ${machine.name} ${machine.step ?? machine.state}${progress}${since}`),
      paint: paint.busy,
    })
  }
  if (status.stop !== null) {
    const stop = status.stop
    const age = spanText(shown.now - stop.since)
    const held = stop.kind === 'hold'
    lines.push({
      text: visible(`${held ? 'Held' : 'Waiting'}: ${stop.reason} (for ${age})`),
      paint: held ? paint.bad : paint.warn,
    })
    if (stop.lift !== '') lines.push({ text: visible(`Lift: ${stop.lift}`), paint: paint.strong })
  }
  if (shown.lost !== null) lines.push({ text: reachText(shown.lost), paint: paint.warn })
  if (shown.tail.length > 0) lines.push({ text: '' })
  for (const line of shown.tail) lines.push({ text: line, paint: paint.faint })
  return lines
}

function paintOfState(state: ProjectState, paint: Context['paint']): (text: string) => string {
  switch (state) {
    case 'complete':
      return paint.good
    case 'failed':
    case 'held':
    case 'cancelled':
      return paint.bad
    case 'waiting':
    case 'pending':
      return paint.warn
    case 'running':
      return paint.busy
    default:
      return unreachable(state)
  }
}

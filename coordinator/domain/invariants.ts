/**
 * What must hold after every turn, checked on the rows that the turn writes before it is committed: a turn that would
 * break one of these is never committed, and the coordinator ends rather than go on. Called by the driver, and by the
 * simulator after each of its turns. The cost is that of the write set, not of the fleet.
 */
import { assert } from './assert.ts'
import { type View, instanceOf } from './draft.ts'
import type { Calendar } from './events.ts'
import type { Line, Order, Project, Target, Write } from './state.ts'
import { type TABLES, placeKey } from './state.ts'
import { countOf } from './targets.ts'

const ACTIVE: readonly Order['state'][] = ['granted', 'running', 'unknown']

/** Throws, naming the rule, when the writes would leave the state broken. `before` is the view without them. */
export function checkWrites(before: View, writes: readonly Write[], calendar?: Calendar): void {
  const after = viewAfter(before, writes)
  for (const write of writes) {
    switch (write.table) {
      case 'orders':
        if (write.row !== null) checkOrder(before, after, write.row)
        if (write.row !== null && isGrantOf(before, write.row)) checkPace(before, after, write.row, calendar)
        break
      case 'lines':
        if (write.row !== null) checkLine(after, write.row)
        break
      case 'projects':
        if (write.row !== null && write.live) checkProject(before, after, write.row)
        break
      case 'targets':
        if (write.row !== null && write.live) checkTarget(after, write.row)
        break
      case 'instance':
        if (write.row !== null) assert(write.row.fence >= instanceOf(before).fence, 'FEN-1: the fence never goes back')
        break
      default:
    }
  }
}

function viewAfter(before: View, writes: readonly Write[]): Pick<View, 'get'> {
  const written = new Map(writes.map((write) => [`${write.table} ${write.key}`, write]))
  return {
    get: ((table: keyof typeof TABLES, key: string) => {
      const write = written.get(`${table} ${key}`)
      if (write === undefined) return before.get(table, key)
      return write.live && write.row !== null ? write.row : undefined
    }) as View['get'],
  }
}

function checkOrder(before: View, after: Pick<View, 'get'>, order: Order): void {
  const old = before.get('orders', order.id) ?? before.archived('orders', order.id)
  assert(old === undefined || old.upTo <= order.upTo, 'LOG-1: what was committed of a log is never taken back')
  assert(old === undefined || old.fence === 0 || old.fence === order.fence, 'FEN-1: an order is granted once')
  assert(
    !(old?.state === 'succeeded' || old?.state === 'failed' || old?.state === 'voided' || old?.state === 'cancelled') ||
      old.state === order.state,
    `ORD-4: order ${order.id} left its end state ${old?.state}`,
  )
  if (!ACTIVE.includes(order.state)) return
  assert(order.fence > 0, 'FEN-1: an order in the works has a fence')
  const line = after.get('lines', `project:${order.project}`)
  assert(line?.order === order.id, `SER-1: order ${order.id} is in the works and does not have its project's line`)
  assert(
    after.get('projects', order.project)?.active === order.id,
    `SER-1: project ${order.project} does not know its active order`,
  )
  const target = after.get('targets', placeKey(order.project, order.target))
  assert(
    after.get('lines', `cluster:${target?.cluster ?? ''}`)?.order === order.id,
    `SER-1: order ${order.id} does not have its cluster's line`,
  )
}

function isGrantOf(before: View, order: Order): boolean {
  // What arrives late for an order that has left memory is kept with it, and grants nothing.
  const old = before.get('orders', order.id) ?? before.archived('orders', order.id)
  return order.fence > 0 && (old?.fence ?? 0) === 0
}

/** What the request and the configuration say about when and how far, at the turn that grants. */
function checkPace(before: View, after: Pick<View, 'get'>, order: Order, calendar: Calendar | undefined): void {
  const was = before.get('projects', order.project)
  const project = after.get('projects', order.project)
  const target = after.get('targets', placeKey(order.project, order.target))
  const bag = after.get('bags', placeKey(order.project, target?.bag ?? 0))
  const at = order.grantedAt ?? 0
  if (was === undefined || project === undefined || bag === undefined) return
  assert(
    bag.phase <= project.phase,
    `PHA-2: ${order.name} was granted in phase ${bag.phase}, of which ${project.phase} is open`,
  )
  const soakEnd = bag.phase > was.phase && was.soakFrom !== null ? was.soakFrom + was.options.soakMinutes * 60_000 : at
  assert(at >= soakEnd, `PHA-2: ${order.name} was granted before the soak of phase ${was.phase} was over`)
  assert(
    was.failuresMax === null || was.undecided.length < was.failuresMax,
    `FAI-2: ${order.name} was granted after ${was.undecided.length} failures`,
  )
  const { window } = was.options
  assert(
    window === null || (window.start <= at && at < window.end),
    `WIN-2: ${order.name} was granted outside its window`,
  )
  const open = calendar?.nextOpen(at, 0)
  assert(open === undefined || open?.start === at, `WIN-2: ${order.name} was granted while the configuration is shut`)
}

function checkLine(after: Pick<View, 'get'>, line: Line): void {
  const order = after.get('orders', line.order)
  const target = after.get('targets', placeKey(line.project, line.target))
  const isHeld = order !== undefined && ACTIVE.includes(order.state)
  assert(isHeld || target?.keepsLine === true, `SER-1: the line ${line.key} is kept by nothing`)
}

function checkProject(before: View, after: Pick<View, 'get'>, project: Project): void {
  const sum = Object.values(project.counts).reduce((total, count) => total + count, 0)
  assert(sum === project.targets, `STA-3: the totals of ${project.id} do not add up`)
  assert(
    Object.values(project.counts).every((count) => count >= 0),
    `STA-3: a total of ${project.id} is negative`,
  )
  assert(
    project.active === null || project.approval !== null || project.counts.running + project.counts.unknown > 0,
    'APR-1: active without approval',
  )
  const active = project.active === null ? undefined : after.get('orders', project.active)
  assert(
    project.active === null || (active !== undefined && ACTIVE.includes(active.state)),
    `SER-2: the active order of ${project.id} has ended`,
  )
  const old = before.get('projects', project.id)
  assert(old === undefined || old.phase <= project.phase, `PHA-2: a phase of ${project.id} was shut again`)
  if (old !== undefined && old.phase < project.phase) {
    const first = Math.min(project.cursor, project.targets - 1)
    const bag = after.get('bags', placeKey(project.id, after.get('targets', placeKey(project.id, first))?.bag ?? 0))
    assert((bag?.phase ?? 0) >= project.phase, `PHA-2: phase ${project.phase} was opened before the last had ended`)
  }
  assert(project.checksOpen >= 0, `ORD-1: ${project.id} waits for fewer than no machines`)
}

function checkTarget(after: Pick<View, 'get'>, target: Target): void {
  const isActive = countOf(target.state) === 'running' || target.state === 'unknown'
  const project = after.get('projects', target.project)
  assert(
    !isActive || (project?.active != null && project.active === target.order),
    `SER-1: ${target.name} is ${target.state} without the active order`,
  )
  assert(
    !target.keepsLine || after.get('lines', `cluster:${target.cluster}`)?.target === target.index,
    `SER-1: ${target.name} lost the line that its failure keeps`,
  )
}

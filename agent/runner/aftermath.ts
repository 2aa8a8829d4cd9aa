/**
 * The end of a run that changed the machine: what it left for a person to do is put into the result (configuration
 * files kept, services that still run old code, a reboot that stays pending), then the result is written.
 * Invariant: nothing here changes the outcome, and nothing is restarted.
 */
import { join } from 'node:path'
import { rebootObjection } from '../apt/allow.ts'
import { aptEnvironment, pathOn } from '../apt/command.ts'
import { visible } from '../apt/diagnosis.ts'
import { shortList } from '../apt/plan.ts'
import { readIfExists } from '../disk/disk.ts'
import { conffileDebt, type ConffileDebt, newDebt } from './conffiles.ts'
import { type Ending, endOrder, type Order, rebootDue, type Run } from './order.ts'

const NEEDRESTART = '/usr/sbin/needrestart'

export function closeRun(run: Run, ending: Ending): void {
  const { order } = run
  staleServices(order, (services) => {
    const debt = debtOf(order)
    const message = [ending.message]
    const advice = [...ending.advice]
    if (debt.length > 0) {
      order.records.note(`configuration files kept as they were, the packages' own beside them: ${debt.join(', ')}`)
      message.push(
        `${debt.length} configuration ${debt.length === 1 ? 'file was' : 'files were'} kept: ${shortList(debt)}`,
      )
      advice.push('Compare each kept configuration file with the one of the package beside it, then remove that one.')
    }
    if (services.length > 0) {
      order.records.note(`services that still run what was replaced (none is restarted): ${services.join(', ')}`)
      advice.push(`These services still run what was replaced: systemctl restart ${services.slice(0, 40).join(' ')}`)
    }
    const objection =
      order.payload.outageMinutes > 0 && ending.outcome === 'succeeded' ? rebootObjection(order.context.config) : null
    if (objection !== null && rebootDue(order)) message.push(`a reboot is due and stays pending: ${objection}`)
    const evidence = [...ending.evidence, ...debt.map((path) => `kept, with the package's version in ${visible(path)}`)]
    endOrder(order, { ...ending, message: message.join('; '), evidence, advice }, true)
    run.done()
  })
}

function debtOf(order: Order): string[] {
  const { disk } = order.context.ports
  const text = readIfExists(disk, order.files.before)?.toString('utf8')
  if (text === undefined) return []
  const { debt } = JSON.parse(text) as { debt?: ConffileDebt }
  // A file of a version that kept no list: what is there may be years old.
  if (debt === undefined) return []
  const found = newDebt(debt, conffileDebt(disk, pathOn(order.target, '/etc')))
  return order.target.root === null ? found : found.map((path) => path.slice(order.target.root?.length ?? 0))
}

/** needrestart in list mode, where it is installed; what it can't say is no reason for anything. */
function staleServices(order: Order, then: (services: string[]) => void): void {
  const { disk, processes } = order.context.ports
  if (order.target.root !== null || disk.factsOf(NEEDRESTART) === null) return then([])
  const { NEEDRESTART_SUSPEND: _, ...environment } = aptEnvironment(order.target, null, order.id)
  const output = join(order.files.folder, 'needrestart.txt')
  disk.remove(output)
  const spec = {
    argv: [NEEDRESTART, '-b', '-r', 'l'],
    environment,
    folder: '/',
    output,
    timeLimitMs: order.context.config.limits.checkMs,
    diesWithUs: true,
  }
  processes.start(spec, (end) => {
    const text = readIfExists(disk, output)?.toString('utf8') ?? ''
    if (end.status !== 0) order.records.note('needrestart did not answer, so services that run old code are not known')
    then([...new Set([...text.matchAll(/^NEEDRESTART-SVC: ?(\S+)$/gm)].map((match) => visible(match[1] ?? '')))])
  })
}

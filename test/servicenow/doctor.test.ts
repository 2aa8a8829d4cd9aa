/** `smith doctor` with ServiceNow: everything that differs is found, and nothing is changed by looking. */
import t from 'tap'
import { ownFindings } from '../../coordinator/api/examine.ts'
import { createSnowWorld } from './world.ts'

const bad = async (lines: string, spoil: (world: Awaited<ReturnType<typeof createSnowWorld>>) => void = () => {}) => {
  const world = await createSnowWorld({ lines, machines: [] })
  spoil(world)
  const findings = await world.servicenow().examine()
  return {
    world,
    findings,
    text: findings.filter((one) => one.level === 'bad').map((one) => `${one.subject}: ${one.text} | ${one.remedy}`),
  }
}

t.test('[DOC-1] a stock site has nothing that differs, and looking changes nothing', async (t) => {
  const { world, findings, text } = await bad('fields = { u_outage = "{outage}" }')
  t.strictSame(text, [])
  t.ok(findings.length > 10)
  t.match(findings.find((one) => one.subject === 'assignment_group')?.text, 'Linux operations')
  t.strictSame([...new Set(world.standIn.calls.map((call) => call.method))], ['GET'])
})

t.test('[DOC-2] what differs from the configuration is named, with what to do', async (t) => {
  t.match((await bad('fields = { u_none = "x" }')).text, [/columns of change_request: there is no u_none \| correct/])
  t.match((await bad('states = { review = "17" }')).text, [
    /state of change_request: no choice for states\.review = 17; there are .*-5 \(New\)/,
  ])
  t.match((await bad('task_states = { open = "17" }')).text, [
    /state of change_task: no choice for task_states\.open = 17/,
  ])
  t.match((await bad('close_codes = { successful = "ok" }')).text, [
    /close_code of change_request: no choice for close_codes\.successful = ok/,
  ])
  t.match((await bad(`model = "${'e'.repeat(32)}"`)).text, [/model: .*no such record/])
  t.match((await bad('', ({ standIn }) => standIn.records.table('sys_user_group').clear())).text, [
    /assignment_group: .*no such record/,
  ])
  const template = 'e'.repeat(32)
  t.match((await bad(`template = "${template}"`)).text, [/template: there is no template e+/])
  const known = await bad(`template = "${template}"`, ({ standIn }) =>
    standIn.records.put('std_change_record_producer', { sys_id: template, name: 'Patch' }),
  )
  t.strictSame(known.text, [])
  const hidden = await bad(
    '',
    ({ standIn }) =>
      (standIn.tables = new Set([
        'change_request',
        'change_task',
        'sys_user',
        'sys_user_group',
        'cmdb_ci_server',
        'sysapproval_approver',
        'sys_journal_field',
      ])),
  )
  t.ok(
    hidden.text.some((line) =>
      /table sys_choice: .*may not \(403\).* \| let smith's account read sys_choice/.test(line),
    ),
    hidden.text.join('\n'),
  )
})

t.test('[DOC-3] a site that can not be reached, or does not let smith in, is the one thing that is said', async (t) => {
  t.match((await bad('', ({ standIn }) => (standIn.fault = () => 'html'))).text, [/^reach: .*hibernating/])
  t.match((await bad('', ({ standIn }) => (standIn.fault = () => 'cut'))).text, [/^reach: .*can't be reached/])
})

t.test('[DOC-4] what waits to be told is shown with what keeps it', async (t) => {
  const world = await createSnowWorld()
  world.standIn.fault = ({ path }) => (path.endsWith('/normal') ? { status: 500 } : undefined)
  await world.request('prod machines: prod-dal10-web-1 outage:0')
  await world.later(5000)
  const findings = await world.servicenow().examine()
  t.match(
    findings.find((one) => one.subject.startsWith('outbox')),
    { level: 'bad', text: /1 calls wait: .*answered 500/ },
  )
})

t.test('[DOC-6] of the coordinator itself it says what stops or hinders patching', async (t) => {
  const world = await createSnowWorld({ offline: ['prod-dal10-web-2'] })
  const look = (isLocal: boolean) => ownFindings(world.driver().view, world.driver().now(), isLocal)
  t.match(look(true), [
    { subject: 'instance', level: 'good' },
    { subject: 'machines', level: 'warning', text: /1 of 2 without a live agent: prod-dal10-web-2/ },
    { subject: 'people', level: 'warning', text: 'nobody has the role requester or approver' },
  ])
  t.match(look(false)[2]?.text, 'nobody has the role requester')
  await world.command('cy', {
    type: 'userAdd',
    name: 'eve',
    roles: ['requester', 'approver'],
    tokenHash: 'f'.repeat(64),
    ttlMs: null,
  })
  await world.command('cy', { type: 'freeze', reason: 'storage' })
  t.match(look(true)[0], { level: 'warning', text: 'frozen by cy: storage', remedy: 'smith unfreeze' })
  t.match(look(true)[2], { level: 'good' })
})

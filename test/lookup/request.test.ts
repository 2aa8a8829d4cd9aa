/** A request's words among the machines of a source, through the interface: what is chosen, and what is refused with what to do. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { record, startStandIn } from './stand-in.ts'
import { type LookupWorld, createLookupWorld, folder, netboxLines } from './world.ts'

const KEY = '0123456789abcdef0123456789abcdef'

async function listWorld(t: Test, list: unknown, more = '') {
  const file = join(folder(t), 'list.json')
  const write = (next: unknown) => writeFileSync(file, JSON.stringify(next))
  write(list)
  return { ...(await createLookupWorld(t, `source = "file"\nfile = "${file}"\n${more}`)), write, file }
}

async function finding(world: LookupWorld): Promise<unknown> {
  const { body } = await world.call('doctor', 'socket')
  return body.findings.find(({ subject }: { subject: string }) => subject === 'lookup')
}

t.test('[LKP-8] names, addresses and patterns mean what NetBox knows, and a change is raised for them', async (t) => {
  const standIn = await startStandIn(t)
  standIn.devices = [record(1, 'Web-1'), record(2, 'web-2'), record(10, 'web-10'), record(3, 'rack a')]
  standIn.machines = [record(11, 'db-1', { primary_ip6: { address: '2001:db8::11/64' } })]
  const world = await createLookupWorld(t, netboxLines(t, standIn.url))
  for (const name of ['web-10', 'web-2', 'web-1', 'db-1', 'web-99']) await world.machine(name, { address: '10.9.9.9' })
  t.equal(await world.told('web-*'), 'web-1 web-2 web-10', 'web-99 is enrolled, and NetBox does not know it')
  t.equal(await world.told('10.0.1.11'), 'db-1')
  t.match(await world.told('2001:db8::11'), /machine-busy: db-1/)
  t.match(
    await world.told('web-99'),
    /unknown-machine: web-99 is enrolled, and NetBox at .* does not know it \| .*--missing/,
  )
  t.match(await world.told('web-3'), /unknown-machine: NetBox at .* knows no machine web-3 \| did you mean web-/)
  t.match(await world.told('app-*'), /no-match: no machine in NetBox at .* matches app-\*/)
  t.match(await world.told('192.0.2.1'), /knows no machine with the address 192.0.2.1, and no agent/)
})

t.test(
  '[LKP-9] a machine that is there and has no agent is told as that, with what to do; except: takes it out',
  async (t) => {
    const world = await listWorld(t, ['web-1', 'web-2', 'web-3', 'web-4', 'db.example.com', '10.0.0.99'])
    for (const name of ['web-1', 'db']) await world.machine(name)
    t.match(
      await world.told('web-2'),
      /^machine-offline: web-2 is known to .*list.json and has no agent here \| enrol it \(smith enrol new --name web-2\), or use except:web-2$/,
    )
    t.match(
      await world.told('web-*'),
      /^machine-offline: 3 machines are known to .* no agent here: web-2, web-3, web-4 \|/,
    )
    t.match(await world.told('10.0.0.99'), /10.0.0.99 is known to .* has no agent here/)
    t.match(await world.told('db.example.com'), /db.example.com is known .* \| db is enrolled: .*\[lookup\] domains/)
    t.match(await world.told('db'), /db is enrolled, and .* does not know it/)
    t.match(await world.told('web-2 except:web-2'), /no-match: except: takes out every machine/)
    t.equal(await world.told('web-* except:web-2 web-3 web-4'), 'web-1')
  },
)

t.test('[LKP-10] a name or address that means more than one machine is refused and never guessed', async (t) => {
  const standIn = await startStandIn(t)
  standIn.devices = [record(1, 'web-1'), record(2, 'WEB-1'), record(3, 'db-1'), record(4, 'app-1'), record(5, 'one-1')]
  standIn.devices.push(record(6, 'ip-a', { primary_ip: { address: '10.1.1.1/32' } }))
  standIn.devices.push(record(7, 'ip-b', { primary_ip: { address: '10.1.1.1/24' } }))
  standIn.devices.push(record(8, 'old-1', { status: { value: 'planned' } }))
  standIn.machines = [record(3, 'db-1'), record(9, 'app-1.example.com')]
  const world = await createLookupWorld(t, netboxLines(t, standIn.url))
  for (const name of ['web-1', 'db-1', 'app-1', 'one-1', 'ip-a']) await world.machine(name)
  await world.machine('other', { address: '10.0.1.5' })
  t.match(
    await world.told('web-1'),
    /^bad-value: web-1 is ambiguous in NetBox at .*: web-1 \(device 1\), web-1 \(device 2\) \|/,
  )
  t.match(await world.told('web-*'), /^bad-value: web-1 is ambiguous/)
  t.match(await world.told('db-1'), /db-1 \(device 3\), db-1 \(virtual machine 3\)/)
  t.match(await world.told('app-1'), /app-1 is ambiguous.*app-1.example.com \(virtual machine 9\)/)
  t.match(await world.told('app-1.example.com'), /app-1.example.com is ambiguous/)
  t.match(await world.told('10.1.1.1'), /10.1.1.1 is ambiguous.*ip-a \(device 6\), ip-b/)
  t.match(
    await world.told('10.0.1.5'),
    /10.0.1.5 is the address of one-1 \(device 5\).* from which the agent of other connects/,
  )
  t.match(await world.told('old-1'), /old-1 is not to be patched: .* has it as planned/)
  t.equal(await world.told('ip-a'), 'ip-a', 'a shared address does not matter to who is named')
  const names = await listWorld(t, {
    _meta: { hostvars: { a1: { ansible_host: 'b1' } } },
    all: { hosts: ['a1', 'b1'] },
  })
  for (const name of ['a1', 'b1']) await names.machine(name)
  t.match(await names.told('b1'), /b1 is ambiguous/, "one machine's name is another's address")
  t.equal(await names.told('a1'), 'a1')
  const twice = await listWorld(t, [{ name: 'a1', id: 1 }, { name: 'a1', id: 2 }, { name: 'c1' }])
  await twice.machine('a1')
  t.match(await twice.told('a1'), /a1 is ambiguous/)
})

t.test('[LKP-11] a source that does not answer well refuses every request, and no older list is used', async (t) => {
  const standIn = await startStandIn(t)
  standIn.devices = [record(1, 'web-1'), record(2, 'web-2')]
  const world = await createLookupWorld(t, netboxLines(t, standIn.url))
  for (const name of ['web-1', 'web-2']) await world.machine(name)
  t.equal(await world.told('web-1', KEY), 'web-1')
  standIn.answer = (_request, response) => (response.writeHead(502).end('<html>'), true)
  t.match(
    await world.told('web-2'),
    /^unavailable: which machines there are is not known: NetBox at .* answers 502 \| /,
  )
  t.match(await world.told('web-*'), /^unavailable/)
  const asked = standIn.asked.length
  t.equal(await world.told('web-1', KEY), 'web-1', 'what was asked before is only repeated')
  t.equal(standIn.asked.length, asked, 'and the source, which may hang, is not asked for it')
  t.match(await finding(world), { level: 'bad', text: /answers 502/ })
  t.equal((await world.call('missing', 'vi')).status, 503)
  standIn.devices = [record(1, 'web-1')]
  standIn.answer = () => false
  t.match(await world.told('web-2'), /web-2 is enrolled, and NetBox/)
  t.match(await finding(world), { level: 'good', text: /knows 1 machines/ })
})

t.test('[LKP-12] a source that answers with more than was asked for widens nothing', async (t) => {
  const world = await listWorld(t, ['web-1'])
  for (const name of ['web-1', 'web-2', 'db-1']) await world.machine(name)
  world.write(['web-1', 'web-2', 'db-1'])
  t.equal(await world.told('web-1'), 'web-1')
  t.equal(await world.told('db-?'), 'db-1')
})

t.test('[LKP-13] without its answer the core takes no request where a source is configured', async (t) => {
  const world = await listWorld(t, ['web-1'])
  await world.machine('web-1')
  const text = 'prod machines: web-1 outage:0'
  const actor = { kind: 'person', name: 'ana', roles: ['requester'] } as const
  const reply = await world.command({ type: 'request', text, preview: false, key: null }, actor)
  t.match(reply, { ok: false, refusals: [{ kind: 'internal', message: /was not asked of .*list.json/ }] })
})

t.test('[LKP-14] the differences between the source and the enrolled machines are listed, each way', async (t) => {
  const world = await listWorld(t, [{ name: 'web-1' }, { name: 'web-10', address: '10.0.0.10' }, { name: 'web-9' }])
  for (const name of ['web-1', 'db-2', 'db-1']) await world.machine(name)
  const { status, body } = await world.call('missing', 'vi')
  t.equal(status, 200)
  t.match(body, { source: world.file, notKnown: ['db-1', 'db-2'] })
  t.same(body.notEnrolled, [
    { name: 'web-9', addresses: [], id: 'web-9' },
    { name: 'web-10', addresses: ['10.0.0.10'], id: 'web-10' },
  ])
  world.write({ error: 'x' })
  t.match((await world.call('missing', 'vi')).body.refusals, [{ kind: 'unavailable', message: /shape/ }])
})

t.test(
  '[LKP-22] the source and the time of its answer stay with the change: in its plan, its status, its notes',
  async (t) => {
    const world = await listWorld(t, ['web-1'])
    await world.machine('web-1')
    const before = world.driver.now()
    t.equal(await world.told('web-1'), 'web-1')
    const [local] = [...world.driver.view.all('localChanges')]
    const change = local?.number ?? ''
    const { lookup } = (await world.call('project', 'vi', { params: { change } })).body.status
    t.equal(lookup.source, world.file)
    t.ok(lookup.at >= before && lookup.at <= world.driver.now(), `${lookup.at}`)
    const term = new RegExp(`^machines: as ${world.file} had them at 20\\d\\d-`)
    t.ok((await world.call('plan', 'vi', { params: { change } })).body.terms.some((one: string) => term.test(one)))
    t.ok(
      local?.notes.some((one) => term.test(one)),
      'and for whoever approves',
    )
  },
)

t.test('[LKP-23] offline:skip leaves out what was matched and has no agent, and says so on the change', async (t) => {
  const list = ['web-1', 'web-2', 'web-10', 'dev-web-3', 'app.example.com']
  const world = await listWorld(t, list, '')
  for (const name of ['web-2', 'app']) await world.machine(name)
  t.equal(await world.told('web-* offline:skip'), 'web-2 web-1 web-10')
  const [change = ''] = [...world.driver.view.all('localChanges')].map(({ number }) => number)
  const reason = (name: string) => `${name} is known to ${world.file} and has no agent here`
  const skipped = ['web-1', 'web-10'].map((name) => ({ name, reason: reason(name) }))
  t.same((await world.call('plan', 'vi', { params: { change } })).body.skipped, skipped)
  const { status, text } = (await world.call('project', 'vi', { params: { change } })).body
  t.match(status, { title: 'web-*', totals: { unstarted: 1, skipped: 2 } })
  t.match(text, /, Skipped web-1, web-10\n/)
  await world.command({ type: 'cancel', change, reason: '' }, { kind: 'person', name: 'ana', roles: ['requester'] })
  t.match((await world.call('project', 'vi', { params: { change } })).body.status, {
    totals: { cancelled: 1, skipped: 2 },
  })

  t.match(await world.told('web-1 web-* offline:skip'), /^machine-offline: web-1 is known/, 'what is named refuses')
  t.match(await world.told('dev-* offline:skip'), /^no-match: every machine that matches would be skipped/)
  t.match(
    await world.told('app* offline:skip'),
    /app is enrolled: .*\[lookup\] domains/,
    'another spelling is no absence',
  )
  const results = [record(2, 'web-2'), record(9, 'web-9', { status: { value: 'planned' } })]
  world.write({ count: 2, next: null, previous: null, results })
  t.match(await world.told('web-* offline:skip'), /web-9 is not to be patched/, 'nor is what the source bars')
})

t.test('[LKP-23] the preview and the change have the same places, also for those left out', async (t) => {
  const world = await listWorld(t, ['web-dal10-a-1', 'web-dal10-a-2', 'web-dal11-a-1', 'web-dal12-a-1'])
  for (const name of ['web-dal10-a-2', 'web-dal11-a-1']) await world.machine(name)
  const body = { text: 'prod machines: web-* outage:0 offline:skip phases:1,100%', preview: true }
  const made = await world.call('requestMake', 'ana', { body })
  const shown = await world.call('request', 'ana', { params: { request: made.body.request }, query: '?wait=30' })
  t.equal(
    await world.told('web-* offline:skip phases:1,100%'),
    'web-dal10-a-2 web-dal10-a-1 web-dal11-a-1 web-dal12-a-1',
  )
  const [change = ''] = [...world.driver.view.all('localChanges')].map(({ number }) => number)
  const { status } = (await world.call('project', 'vi', { params: { change } })).body
  const places = status.phases.flatMap(
    (phase: { number: number; bags: { name: string; machines: { name: string }[] }[] }) =>
      phase.bags.flatMap((bag) => bag.machines.map(({ name }) => ({ name, phase: phase.number, bag: bag.name }))),
  )
  for (const { name, phase, bag } of shown.body.plan.machines)
    t.match(
      places.find((place: { name: string }) => place.name === name),
      { name, phase, bag },
    )
  t.equal(shown.body.plan.skipped.length, 2)
})

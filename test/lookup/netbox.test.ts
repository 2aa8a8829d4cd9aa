/** NetBox as it is: pages, links of another host, filters that it ignores, records that change while they are read. */
import t from 'tap'
import { TOKEN, json, record, startStandIn } from './stand-in.ts'
import { listed, netboxLines } from './world.ts'

t.test('[LKP-5] every page of devices and virtual machines is read, whatever host its links name', async (t) => {
  const standIn = await startStandIn(t)
  standIn.devices = Array.from({ length: 7 }, (_, index) => record(index + 1, `Host${index + 1}`))
  standIn.machines = [record(1, 'vm1', { site: null, cluster: { slug: 'k' } }), record(2, null)]
  const found = await listed(netboxLines(t, standIn.url, 'page = 3'))
  t.equal(found.length, 8)
  t.match(found, ['host1 [10.0.1.1]'])
  t.ok(found.includes('vm1 [10.0.1.1]'))
  t.equal(standIn.asked.length, 4, 'three pages and one')
  t.ok(standIn.asked.every((path) => path.includes('limit=3') && path.includes('exclude=config_context')))
  standIn.answer = (_request, response, url) => {
    const start = Number(url.searchParams.get('start') ?? 0)
    const rest = standIn.devices.filter((row) => row.id > start)
    const next = rest.length > 4 ? `http://x${url.pathname}?start=${rest[3]?.id}&limit=4` : null
    return url.pathname.includes('dcim') && json(response, { count: null, next, results: rest.slice(0, 4) })
  }
  t.equal((await listed(netboxLines(t, standIn.url))).length, 8, 'by cursor, without a count')
})

t.test(
  '[LKP-6] a filter is asked for and held against every record: one that NetBox ignores refuses all',
  async (t) => {
    const standIn = await startStandIn(t)
    const slug = (name: string) => ({ site: { slug: name } })
    standIn.devices = [record(1, 'a1'), record(2, 'b1', slug('fra1')), record(3, 'c1', slug('syd5'))]
    standIn.devices.push(record(4, 'd1', { tags: [] }))
    const ask = (filters: string) => listed(netboxLines(t, standIn.url, `filters = { ${filters} }`))
    t.same(await ask('site = ["ldn1", "fra1"], tag = ["prod"]'), ['a1 [10.0.1.1]', 'b1 [10.0.1.2]'])
    t.match(standIn.asked, [/site=ldn1&site=fra1&tag=prod/])
    for (const [ignored, filters] of [
      ['site', 'site = ["ldn1"]'],
      ['tag', 'tag = ["prod"]'],
      ['status', 'status = ["staged"]'],
      ['role', 'role = ["web"]'],
      ['tenant', 'tenant = ["x"]'],
      ['platform', 'platform = ["x"]'],
    ] as const) {
      standIn.ignores = [ignored]
      t.match(await ask(filters), new RegExp(`does not fit the filter ${ignored}`))
    }
    standIn.ignores = []
    t.match(await ask('site = ["xyz"]'), /answers 400.*not one of the available choices.*lookup.filters/)
  },
)

t.test('[LKP-7] a list that pages for ever, stops short or changes while it is read is refused', async (t) => {
  const standIn = await startStandIn(t)
  const page = (make: (offset: number, path: string) => unknown) => {
    standIn.answer = (_request, response, url) =>
      json(response, make(Number(url.searchParams.get('offset') ?? 0), url.pathname))
  }
  const ask = (more = '') => listed(netboxLines(t, standIn.url, `page = 1\nobjects = ["devices"]\n${more}`))
  const next = (offset: number, path: string) => `http://x${path}?limit=1&offset=${offset + 1}`
  page((offset, path) => ({ count: null, next: next(offset, path), results: [record(offset + 1, `h${offset}`)] }))
  t.match(await ask('machines = 20'), /has more than 20 records/)
  page((offset, path) => ({ count: 5, next: next(offset, path), results: [] }))
  t.match(await ask(), /empty pages of .* without an end/)
  page((offset, path) => ({ count: 5, next: next(offset, path), results: [record(1, 'h1')] }))
  t.match(await ask(), /changed while .* was read/)
  page((offset, path) => ({ count: 5 + offset, next: next(offset, path), results: [record(offset + 1, `h${offset}`)] }))
  t.match(await ask(), /changed while .* was read/)
  page((offset) => ({ count: 5, next: null, results: [record(offset + 1, 'h')] }))
  t.match(await ask(), /gives 1 of 5 records/)
  page((offset) => ({ count: 2, next: 'http://x/?limit=1&offset=0', results: [record(offset + 1, 'h')] }))
  t.match(await ask(), /no way to its next page/)
  page(() => ({ count: 1, next: null }))
  t.match(await ask(), /with no page of a list/)
  page(() => ({ count: 1, next: null, results: [{ name: 'h1' }] }))
  t.match(await ask(), /a record without an id/)
  page((offset, path) => ({ count: null, next: next(offset, path), results: [record(offset + 1, `h${offset}`)] }))
  const { answer } = standIn
  standIn.answer = (request, response, url) => {
    setTimeout(() => answer(request, response, url), 20)
    return true
  }
  t.match(await ask('timeout = 0.2\ntotal = 0.2'), /not read whole within 0.2 s|no answer within/)
})

t.test('[LKP-4] NetBox says no with 403, and its own words are passed on', async (t) => {
  const standIn = await startStandIn(t)
  standIn.answer = (request, response) =>
    request.headers.authorization === `Bearer ${TOKEN}` &&
    json(response, { detail: 'Source IP 10.0.0.1 is not permitted to authenticate using this token.' }, 403)
  t.match(
    await listed(netboxLines(t, standIn.url)),
    /does not let smith in \(403\): Source IP 10.0.0.1 is not permitted/,
  )
})

t.test('[LKP-24] what NetBox has in another status than active is there and not to be patched', async (t) => {
  const standIn = await startStandIn(t)
  const statuses = ['offline', 'planned', 'staged', 'failed', 'inventory', 'decommissioning']
  standIn.devices = statuses.map((value, index) => record(index + 1, value, { status: { value } }))
  standIn.machines = [record(1, 'vm1', { status: { value: 'paused' } }), record(2, 'vm2')]
  const all = [...statuses.map((status, index) => `${status} [10.0.1.${index + 1}] (${status})`)]
  t.same(await listed(netboxLines(t, standIn.url)), [...all, 'vm1 [10.0.1.1] (paused)', 'vm2 [10.0.1.2]'])
  const more = 'statuses = ["active", "staged", "paused"]'
  t.same(
    ((await listed(netboxLines(t, standIn.url, more))) as string[]).filter((one) => !one.endsWith(')')),
    ['staged [10.0.1.3]', 'vm1 [10.0.1.1]', 'vm2 [10.0.1.2]'],
  )
})

t.test('[LKP-4] each of the words with which NetBox refuses is passed on, and none has the token', async (t) => {
  const standIn = await startStandIn(t)
  for (const detail of [
    'Authentication credentials were not provided.',
    'Invalid v1 token',
    'Invalid v2 token',
    'Token expired',
    'Token disabled',
  ]) {
    standIn.answer = (_request, response) => json(response, { detail }, 403)
    const said = await listed(netboxLines(t, standIn.url))
    t.ok(said.includes(`does not let smith in (403): ${detail} | see lookup.token_file`), String(said))
    t.notOk(said.includes(TOKEN))
  }
})

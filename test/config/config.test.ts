/** The coordinator's configuration: what it gives, and that a wrong one is refused whole, with the place. */
import { RE2JS } from 're2js'
import t from 'tap'
import { CONFIG_REFERENCE, configReferenceText, loadConfig, parseConfig } from '../../coordinator/config.ts'
import { lineOfKey } from '../../coordinator/config-lines.ts'

const given = (text: string) => {
  const answer = parseConfig(text, 'c.toml')
  if (!answer.ok) throw new Error(answer.refusals.map((refusal) => refusal.message).join('\n'))
  return answer.config
}
const refused = (text: string) => {
  const answer = parseConfig(text, 'c.toml')
  return answer.ok ? [] : answer.refusals.map(({ message, remedy }) => `${message} | ${remedy}`)
}
const minimal = 'instance = "prod"\n'

t.test('[CFG-1] a file with nothing but the instance gives every default', async (tt) => {
  const config = given(minimal)
  tt.match(config, {
    instance: 'prod',
    listen: { host: '0.0.0.0', port: 7600 },
    stateDir: '/var/lib/smith-coordinator',
    adminSocket: '/run/smith-coordinator/admin.sock',
    change: { provider: 'local' },
    sockets: { pingMs: 15_000, deadMs: 45_000, authDeadlineMs: 5000 },
  })
  tt.match(config.settings, {
    instance: 'prod',
    clusters: [],
    approval: { requesterMayApprove: false, localAdminMayApprove: false },
    schedule: { timezone: 'UTC', windows: [], blackouts: [], runMsExpected: 900_000 },
    limits: {
      planTimeMsMax: 120_000,
      waitMsMax: 600_000,
      silenceMsMax: 90_000,
      grantLifeMs: 600_000,
      permissionAgeMsMax: 10_000,
      permissionRetryMs: 10_000,
      changePollMs: 15_000,
    },
  })
})

t.test('[CFG-1] what a file gives is what the coordinator gets, each bound in seconds', async (tt) => {
  const config = given(`
instance = "dev"
listen = "[::1]:0"
state_dir = "/srv/smith"
admin_socket = "/srv/admin.sock"
[change]
provider = "local"
requester_may_approve = true
local_admin_may_approve = true
[clusters]
patterns = ["^(.+)-node-[0-9]+$"]
[schedule]
timezone = "Europe/Berlin"
windows = ["0 22 * * 1-5 for 6h"]
blackouts = ["2026-12-24T00:00/2027-01-02T00:00"]
run_expected = 60
[limits]
wait_max = 1.5
silence_max = 2
plan_max = 3
grant_life = 4
permission_age_max = 5
permission_retry = 6
change_poll = 0.25
ping = 8
dead = 16
auth_deadline = 9
machines_per_request = 10
plans_in_parallel = 11
prefetch_ahead = 0
`)
  tt.match(config, {
    instance: 'dev',
    listen: { host: '::1', port: 0 },
    stateDir: '/srv/smith',
    adminSocket: '/srv/admin.sock',
    sockets: { pingMs: 8000, deadMs: 16_000, authDeadlineMs: 9000 },
  })
  tt.same(config.settings.clusters, [{ pattern: '^(.+)-node-[0-9]+$' }])
  tt.same(config.settings.approval, { requesterMayApprove: true, localAdminMayApprove: true })
  tt.same(config.settings.schedule, {
    timezone: 'Europe/Berlin',
    windows: ['0 22 * * 1-5 for 6h'],
    blackouts: ['2026-12-24T00:00/2027-01-02T00:00'],
    runMsExpected: 60_000,
  })
  tt.same(config.settings.limits, {
    machinesPerRequestMax: 10,
    plansInParallelMax: 11,
    prefetchAheadMax: 0,
    planTimeMsMax: 3000,
    waitMsMax: 1500,
    silenceMsMax: 2000,
    grantLifeMs: 4000,
    permissionAgeMsMax: 5000,
    permissionRetryMs: 6000,
    changePollMs: 250,
  })
})

t.test('[CFG-2] a wrong value is refused with file, line, key and what is accepted, all at once', async (tt) => {
  tt.same(
    refused(
      'instance = "prod"\nlisten = "7600"\n\n[limits]\n# a comment\nwait_max = "long"\ngrant_life = 601\npings = 3\n[change]\nprovider = "jira"\n',
    ),
    [
      'c.toml:2: listen can\'t be "7600" | give host:port, an IPv6 address in brackets',
      'c.toml:10: change.provider can\'t be "jira" | give "local" or "servicenow"',
      'c.toml:8: limits.pings is no key of the configuration | did you mean limits.ping?',
      'c.toml:6: limits.wait_max can\'t be "long" | give seconds, 0.1 to 604800',
      "c.toml:7: limits.grant_life can't be 601 | give seconds, 1 to 600",
    ],
  )
})

t.test('[CFG-2] each key refuses what it can not be', async (tt) => {
  const wrong: Record<string, readonly string[]> = {
    instance: ['""', '"Prod"', '7', '"a b"'],
    listen: ['"0.0.0.0"', '"0.0.0.0:65536"', '":7600"', '7600', '"::1:7600"'],
    state_dir: ['"var/lib"', '""', '["/a"]'],
    admin_socket: ['"admin.sock"'],
    regions: ['"dal"', '{ "da l" = "us" }', '{ dal = "US South" }', '{ dal = 3 }', '{ "dal10" = "" }'],
    'change.provider': ['"snow"', '1'],
    'change.requester_may_approve': ['"yes"', '1'],
    'change.local_admin_may_approve': ['"true"'],
    ...Object.fromEntries(
      Object.entries({
        url: ['"ftp://x"', '"http://site.example"', '"https://site.example/"', '1'],
        auth: ['"token"'],
        client_id: ['"a b"', '1'],
        scope: ['"a\\u0000"'],
        user: ['"a:b"'],
        secret_file: ['"secret"', '1'],
        assignment_group: ['"Linux"', '1'],
        model: ['"normal"'],
        template: ['"x"'],
        fields: ['"x"', '{ "a^b" = "x" }', '{ a = 1 }'],
        task_fields: ['{ A = "x" }'],
        states: ['{ gone = "1" }', '{ new = "" }', '{ new = "-4" }'],
        task_states: ['{ open = "2" }'],
        close_codes: ['{ good = "x" }'],
        approval_required: ['"yes"'],
        request_approval: ['1'],
        flow_tasks: ['"Implement"', '[""]'],
        correlation_prefix: ['""', '"a^b"'],
        ci_table: ['"a b"'],
        requester_field: ['"a^b"'],
        attachment: ['"no"'],
        ...Object.fromEntries(
          ['planned', 'timeout', 'settle', 'retry_min', 'retry_max', 'poll'].map((key) => [key, ['-1', '"1"', '1e12']]),
        ),
      }).map(([key, values]) => [`change.servicenow.${key}`, values]),
    ),
    ...Object.fromEntries(
      Object.entries({
        source: ['"cmdb"', '7'],
        file: ['"list.json"', '1'],
        url: ['"ftp://x"', '"https://u:p@x"', '7'],
        user: ['"a:b"'],
        token_file: ['"token"'],
        ca_file: ['"ca.pem"', 'true'],
        objects: ['[]', '["racks"]', '"devices"'],
        filters: ['{ region = ["x"] }', '{ site = "x" }', '{ site = [] }', '{ site = ["a b"] }', '["site"]'],
        statuses: ['[]', '"active"'],
        domains: ['[".example.com"]', '"example.com"'],
        page: ['0', '1001'],
        machines: ['0'],
        bytes: ['0'],
        timeout: ['0', '"1s"'],
        total: ['0', '601'],
      }).map(([key, values]) => [`lookup.${key}`, values]),
    ),
    'schedule.timezone': ['"Mars/Olympus"', '1', '""'],
    'schedule.windows': ['"0 22 * * * for 6h"', '["0 22 * * *"]', '["61 * * * * for 1h"]', '[1]'],
    'schedule.blackouts': ['["2026-02-30T00:00/04:00"]', '["0 22 * * * for 0m"]'],
    'schedule.run_expected': ['0', '"10"', '1e9'],
    'clusters.patterns': ['"x"', '["(a"]', '["a"]', '["(a)(b)"]', '[1]', '["(?=a)(b)"]'],
    ...Object.fromEntries(
      CONFIG_REFERENCE.filter(({ key }) => key.startsWith('limits.')).map(({ key }) => [
        key,
        ['-1', '"10"', 'true', 'nan', 'inf', '1e12'],
      ]),
    ),
    'chat.name': ['""', '"a b"', '1'],
    'chat.app_token_file': ['"slack"', '"xapp-1"', '"credential:../x"', '""'],
    'chat.bot_token_file': ['"slack"', '1'],
    'chat.log_channel': ['"#log"', '"D0ANN"', '1'],
    'chat.confirm_above': ['-1', '1.5', '"3"'],
    'chat.people': ['"ann"', '{ ann = "U0ANN" }', '{ U0ANN = "" }', '{ U0ANN = 1 }'],
    'chat.instances': ['{}', '"prod"', '{ prod = "x" }', '{ prod = { url = "https://x" } }'],
    'chat.api_url': ['"slack.com"', '"https://slack.com/api"', '1'],
    'limits.permission_age_max': ['10.5', '0'],
    'limits.machines_per_request': ['1.5', '0'],
    'trains.name': ['""', '"Dev"', '1'],
    'trains.machines': ['[]', '"dev-*"', '["10.77.0.1"]', '["(a"]', '["a,b"]'],
    'trains.approval': ['"no"', '0'],
    'trains.roles': ['["boss"]', '"admin"'],
    'trains.people': ['["A B"]', '"ana"'],
    'trains.except': ['["(a"]', '[1]'],
    'trains.windows': ['["always"]', '"0 22 * * * for 6h"'],
  }
  tt.same(
    Object.keys(wrong).toSorted(compare),
    CONFIG_REFERENCE.map(({ key }) => key).toSorted(compare),
    'every key is tried',
  )
  for (const [key, values] of Object.entries(wrong)) {
    for (const value of values) {
      const [, section = '', name = key] = /^(.+)\.([^.]+)$/.exec(key) ?? []
      const text = `${key === 'instance' ? '' : minimal}${headerOf(section)}${name} = ${value}\n`
      const shown = section === 'trains' ? `trains.1.${name}` : key
      tt.match(
        refused(text).join('\n'),
        new RegExp(`c\\.toml:\\d+: ${shown.replaceAll('.', '\\.')} can't be`),
        `${key} = ${value}`,
      )
    }
  }
})

const headerOf = (section: string) => (section === '' ? '' : section === 'trains' ? '[[trains]]\n' : `[${section}]\n`)
const compare = (left: string, right: string) => (left < right ? -1 : left > right ? 1 : 0)

t.test('[CFG-3] an unknown key or section is refused with the nearest name, anywhere', async (tt) => {
  tt.same(refused('instanse = "prod"\n'), [
    'c.toml:1: instanse is no key of the configuration | did you mean instance?',
    'c.toml: instance is missing | give a short name: lower-case letters, digits and -',
  ])
  tt.same(refused(`${minimal}[limit]\nping = 3\n`), [
    'c.toml:2: limit is no key of the configuration | did you mean limits?',
  ])
  tt.match(refused(`${minimal}[change]\npassword = "x"\n`), [
    /^c\.toml:3: change\.password is no key of the configuration \| known here: provider, /,
  ])
  tt.match(refused(`${minimal}"__proto__" = 1\n`), [/is no key/])
  tt.match(refused(`${minimal}limits = 3\n`), [/c\.toml:2: limits can't be 3 \| write a section: \[limits\]/])
  tt.match(refused(`${minimal}[[limits]]\nping = 3\n`), [/c\.toml:2: limits can't be/])
})

t.test('[CFG-3] text that is no TOML is refused with its line, and so is a key given twice', async (tt) => {
  tt.match(refused(`${minimal}\nlisten = \n`), [/^c\.toml:3: /])
  tt.match(refused(`${minimal}${minimal}`), [/^c\.toml:2: /])
})

t.test('[CFG-4] bounds that only make sense together are checked together', async (tt) => {
  tt.match(refused(`${minimal}[limits]\nping = 30\n`), [
    /limits\.dead is 45 with limits\.ping at 30 \| give limits\.dead at least twice/,
  ])
  tt.same(refused(`${minimal}[limits]\nping = 30\ndead = 60\n`), [])
})

t.test('[CFG-5] regions are told by a part of the name; what a file gives stands before the defaults', async (tt) => {
  const regionOf = (name: string, text = minimal) =>
    given(text).settings.regions.find(({ pattern }) => RE2JS.compile(pattern).matcher(name).find())?.region ?? null
  for (const [name, region] of [
    ['prod-dal10-carrier3-worker-11', 'us-south'],
    ['prod-syd05-carrier1-worker-1005', 'ap-south'],
    ['wdc-1', 'us-east'],
    ['web.fra02', 'eu-central'],
    ['prod-lon-1', 'uk-south'],
    ['x-tok99', 'ap-north'],
    ['prod-medal10-1', null],
    ['prod-dallas-1', null],
    ['prod-dal10x-1', null],
  ] as const) {
    tt.equal(regionOf(name), region, name)
  }
  const own = `${minimal}[regions]\npar = "eu-west"\ndal = "us-dallas"\n`
  tt.equal(regionOf('prod-par1-a', own), 'eu-west')
  tt.equal(regionOf('prod-dal10-a', own), 'us-dallas')
  tt.equal(regionOf('prod-syd05-a', own), 'ap-south')
  tt.equal(
    regionOf('prod-par1-dal10', `${minimal}[regions]\nzzz = "z"\npar = "eu-west"\n`),
    'eu-west',
    'given ones first',
  )
})

t.test('[CFG-6] the reference names every key with its default, and its defaults are accepted', async (tt) => {
  const text = configReferenceText()
  for (const { key, about, accepted } of CONFIG_REFERENCE) {
    tt.ok(text.includes(`${key}\n    ${about}\n    ${accepted}; `), key)
    tt.ok(about.length > 15 && accepted.length > 3)
  }
  const sections = new Map<string, string[]>()
  // `[chat]` is read only where it is, and then it needs files and instances (chat.test.ts).
  // A train has no default: TRN-8 reads one.
  const isPlain = (key: string) => !key.startsWith('chat.') && !key.startsWith('trains.')
  for (const { key, fallback } of CONFIG_REFERENCE.filter((entry) => isPlain(entry.key))) {
    const [section, name] = key.includes('.')
      ? [key.slice(0, key.indexOf('.')), key.slice(key.indexOf('.') + 1)]
      : ['', key]
    sections.set(section, [...(sections.get(section) ?? []), `${name} = ${fallback ?? '"prod"'}`])
  }
  const whole = [...sections].map(
    ([section, lines]) => `${section === '' ? '' : `[${section}]\n`}${lines.join('\n')}\n`,
  )
  const top = whole.toSorted((left, right) => Number(left.startsWith('[')) - Number(right.startsWith('['))).join('')
  tt.same(given(top), given(minimal))
})

t.test('[CFG-7] a file that can not be read is refused with what to write', async (tt) => {
  const folder = tt.testdir({ 'good.toml': minimal })
  tt.match(loadConfig(`${folder}/none.toml`), {
    ok: false,
    refusals: [{ kind: 'unavailable', message: /none\.toml/, remedy: /instance = "prod".*--config/ }],
  })
  tt.match(loadConfig(`${folder}/good.toml`), { ok: true, config: { instance: 'prod' } })
})

t.test('[CFG-2] the line of a key is found in every way of writing it', async (tt) => {
  const text = [
    'a = 1',
    'long = """',
    'b = 2',
    '"""',
    "'q.r' = 3",
    '[x."y z"]',
    '  c.d = 4 # e = 5',
    'inline = { f = 6 }',
    '[[list]]',
    'g = """one line"""',
    'h = 7',
    '[[list]]',
    'h = 8',
  ].join('\n')
  const lines: readonly (readonly [readonly string[], number | null])[] = [
    [['a'], 1],
    [['b'], null],
    [['q.r'], 5],
    [['x', 'y z'], 6],
    [['x', 'y z', 'c', 'd'], 7],
    [['x', 'y z', 'inline', 'f'], 8],
    [['list'], 9],
    [['list', '1', 'g'], 10],
    [['list', '1', 'h'], 11],
    [['list', '1', 'missing'], 9],
    [['list', '2', 'h'], 13],
    [['none'], null],
  ]
  for (const [path, line] of lines) tt.equal(lineOfKey(text, path), line, path.join('.'))
})

const SNOW = `instance = "prod"
[change]
provider = "servicenow"
[change.servicenow]
url = "https://site.service-now.com"
client_id = "smith"
secret_file = "/run/credentials/smith/secret"
assignment_group = "${'a'.repeat(32)}"
`

t.test('[SNW-29] ServiceNow needs little, and every name of a site can be given', async (tt) => {
  const { change } = given(`${SNOW}fields = { u_outage = "{outage}" }\nstates = { review = "10" }\nsettle = 5\n`)
  if (change.provider !== 'servicenow') throw new Error('the wrong provider')
  tt.match(change.servicenow, {
    url: 'https://site.service-now.com',
    auth: { kind: 'oauth', clientId: 'smith', secretFile: '/run/credentials/smith/secret' },
    fields: { u_outage: '{outage}' },
    states: { new: '-5', review: '10', closed: '3' },
    settleMs: 5000,
    approvalRequired: true,
  })
  const basic = given(SNOW.replace('client_id = "smith"', 'auth = "basic"\nuser = "smith"'))
  tt.match(basic.change, { servicenow: { auth: { kind: 'basic', user: 'smith' } } })
  tt.match(given(minimal).change, { provider: 'local' }, 'without the provider its section asks for nothing')
})

t.test(
  '[SNW-29] what is missing or wrong for ServiceNow is refused with file, line and key, all at once',
  async (tt) => {
    const empty = refused('instance = "prod"\n[change]\nprovider = "servicenow"\n')
    for (const key of ['url', 'client_id', 'secret_file', 'assignment_group'])
      tt.ok(
        empty.some((line) => line.startsWith(`c.toml:2: change.servicenow.${key} is missing`)),
        key,
      )
    const wrong = refused(
      `${SNOW.replace('https://', 'http://')}modle = ""\nstates = { gone = "1" }\ntask_states = { open = "2" }\nfields = { "a^b" = "x" }\nretry_min = 9\nretry_max = 8\n`,
    )
    for (const start of [
      'c.toml:5: change.servicenow.url can\'t be "http://site.service-now.com" | give "https://INSTANCE',
      'c.toml:9: change.servicenow.modle is no key of the configuration | did you mean change.servicenow.model?',
      'c.toml:10: change.servicenow.states can\'t be {"gone":"1"} | give any of new, assess',
      'c.toml:11: change.servicenow.task_states can\'t be {"open":"2"}',
      'c.toml:12: change.servicenow.fields can\'t be {"a^b":"x"}',
    ])
      tt.ok(
        wrong.some((line) => line.startsWith(start)),
        `${start}\n${wrong.join('\n')}`,
      )
    const both = refused(
      `${SNOW}model = "${'b'.repeat(32)}"\ntemplate = "${'c'.repeat(32)}"\nretry_min = 9\nretry_max = 8\n`,
    )
    tt.match(both, [/change\.servicenow\.template and model exclude/, /retry_max is below retry_min \(9\)/])
  },
)

t.test(
  '[LKP-15] [lookup] is checked whole: what is missing, wrong or does not fit is named with file, line and key',
  async (tt) => {
    tt.match(given(minimal), { lookup: null, settings: { lookup: undefined } }, 'what is enrolled is what there is')
    const netbox = `${minimal}[lookup]\nsource = "netbox"\nurl = "https://netbox.example.com"\ntoken_file = "/etc/smith/t"\n`
    const config = given(`${netbox}filters = { site = ["ldn1"], tag = ["a", "b"] }\ntimeout = 2\ntotal = 3\n`)
    tt.match(config.lookup, {
      filters: { site: ['ldn1'], tag: ['a', 'b'] },
      statuses: ['active'],
      timeoutMs: 2000,
      totalMsMax: 3000,
    })
    tt.equal(config.settings.lookup, 'NetBox at https://netbox.example.com')
    const list = given(`${minimal}[lookup]\nsource = "http"\nurl = "http://sd.example.com/list?key=x"\n`)
    tt.equal(list.settings.lookup, 'the list at http://sd.example.com/list')
    for (const [lines, ...starts] of [
      ['source = "file"', 'c.toml:2: lookup.file is missing'],
      ['source = "http"', 'c.toml:2: lookup.url is missing'],
      ['source = "netbox"', 'c.toml:2: lookup.url is missing', 'c.toml:2: lookup.token_file is missing'],
      ['source = "cmdb"\nurl = "ftp://x"', 'c.toml:3: lookup.source can\'t be "cmdb"', "c.toml:4: lookup.url can't be"],
      ['filters = { region = ["x"] }', "c.toml:3: lookup.filters can't be"],
      ['filters = { site = [] }', "c.toml:3: lookup.filters can't be"],
      [
        'tokenfile = "/x"',
        'c.toml:3: lookup.tokenfile is no key of the configuration | did you mean lookup.token_file?',
      ],
      ['source = "http"\nurl = "http://x/l"\ntoken_file = "/x"', 'c.toml:4: lookup.url would carry the token'],
      ['source = "http"\nurl = "https://x/l"\nuser = "u"', 'c.toml:5: lookup.user fits no source'],
      ['source = "http"\nurl = "https://x/l"\nfilters = { site = ["a"] }', 'c.toml:5: lookup.filters fits NetBox only'],
      ['source = "netbox"\nurl = "https://x/?site=a"\ntoken_file = "/x"', 'c.toml:4: lookup.url has a query'],
      ['timeout = 9\ntotal = 8', 'c.toml:4: lookup.total is below timeout (9)'],
    ] as const) {
      const told = refused(`${minimal}[lookup]\n${lines}\n`)
      const untold = starts.filter((start) => !told.some((line) => line.startsWith(start)))
      tt.strictSame(untold, [], told.join('\n'))
    }
  },
)

t.test('[TRN-8] trains are read with their defaults, and a wrong one is refused with its own line', async (tt) => {
  const { settings } = given(`${minimal}[[trains]]
name = "dev"
machines = ["dev-*", "dev2-(db|mq)-[0-9]+"]
approval = false
people = ["ana"]
except = ["dev-db-1"]
windows = ["0 22 * * 1-5 for 6h"]
[[trains]]
name = "stage"
machines = ["stage-*"]
roles = ["admin"]
`)
  const [dev, stage] = settings.trains
  tt.match(dev, { name: 'dev', approval: false, people: ['ana'], except: ['dev-db-1'] })
  tt.strictSame(stage, {
    ...{ name: 'stage', machines: ['stage-*'], approval: true, roles: ['admin'] },
    ...{ people: [], except: [], windows: [] },
  })
  tt.strictSame(given(minimal).settings.trains, [])
  const said = refused(`${minimal}[[trains]]
name = "dev"
machines = ["dev-*"]
[[trains]]
name = "dev"
machines = ["10.77.0.12"]
aproval = false
[[trains]]
name = "stage"
windows = ["never"]
roles = ["boss"]
`)
  tt.equal(said.length, 5, said.join('\n'))
  tt.match(said, [
    /^c.toml:8: trains.2.aproval is no key of the configuration \| did you mean trains.2.approval\?$/,
    /^c.toml:7: trains.2.machines can't be \["10.77.0.12"\] \| /,
    /^c.toml:9: trains.3.machines is missing \| /,
    /^c.toml:12: trains.3.roles can't be \["boss"\] \| /,
    /^c.toml:11: trains.3.windows can't be \["never"\] \| /,
  ])
  const twice = refused(
    `${minimal}[[trains]]\nname = "dev"\nmachines = ["a-*"]\n[[trains]]\nname = "dev"\nmachines = ["b-*"]\n`,
  )
  tt.match(twice, [/^c.toml:6: trains.2.name is dev a second time \| give each train a name of its own$/])
  tt.match(refused(`${minimal}trains = "dev"\n`), [/^c.toml:2: trains can't be "dev" \| /])
  tt.match(refused(`${minimal}[trains]\nname = "dev"\n`), [/^c.toml:2: trains can't be .* \| write a list of sections/])
})

t.test('[TRN-8] a train without approval is refused where ServiceNow decides about changes', async (tt) => {
  const servicenow =
    '[change]\nprovider = "servicenow"\n[change.servicenow]\nurl = "https://site.service-now.com"\nclient_id = "a"\nsecret_file = "/s"\nassignment_group = "x"\n'
  const of = (approval: boolean) =>
    refused(`${minimal}${servicenow}[[trains]]\nname = "dev"\nmachines = ["dev-*"]\napproval = ${approval}\n`)
  tt.match(of(false).at(-1), /^c.toml:12: trains.1.approval can't be false where changes are raised in servicenow/)
  tt.equal(of(true).filter((one) => one.includes('trains')).length, 0)
})

/**
 * The dashboard in a real browser, before a real coordinator: what a person sees and does, from the request to the end.
 * All share one browser and one coordinator, since to start them takes longer than most of what is tried.
 */
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { createApi } from '../../coordinator/api/api.ts'
import { type RunningMachine, line } from '../api/runs.ts'
import { until } from '../site/harness.ts'
import { appendLines } from './lines.ts'
import { type WebSite, createWebSite, noBrowser } from './site.ts'

const LINES = 1_000_000
const MACHINES = 1_000

let shared: Promise<WebSite> | null = null
const siteOf = () => (shared ??= createWebSite(t))

function browserTest(name: string, body: (tt: Test, site: WebSite) => Promise<void>) {
  t.test(name, { skip: noBrowser ?? false }, async (tt) => body(tt, await siteOf()))
}

const granted = (machine: RunningMachine) => until('the grant', () => machine.grants.length > 0)
const text = (page: Page, selector = 'main') => page.locator(selector).first().innerText()
/** What a person may have to wait for is looked for until it is there. */
const shows = (page: Page, what: string | RegExp) => page.getByText(what).first().waitFor()

async function approved(site: WebSite, change: string): Promise<void> {
  const digest = await site.world.digest(change)
  const { status, text: said } = await site.world.call('approve', 'bo', { params: { change }, body: { digest } })
  if (status !== 200) throw new Error(said)
}

browserTest('[DSH-8] a patch is followed from the request to its end without a reload', async (tt, site) => {
  const names = [1, 2].map((n) => `prod-dal10-carrier1-worker-${n}`)
  const [one, two] = await Promise.all(names.map((name) => site.add(name)))
  if (one === undefined || two === undefined) return
  const page = await site.open('bo')
  await shows(page, 'No machine is being patched.')
  const change = await site.world.raise('prod machines: prod-dal10-carrier1-worker-* outage:0')
  await page.getByRole('link', { name: '1 change to approve' }).click()
  const digest = await site.world.digest(change)
  tt.equal(await text(page, '[data-digest]'), digest, 'the digest that will be approved is shown')
  await shows(page, '1.0 → 2.0')
  await page.getByRole('button', { name: 'Approve', exact: true }).click()
  await shows(page, `smith approve ${change} --digest ${digest}`)
  await page.locator('dialog').getByRole('button', { name: 'Approve', exact: true }).click()
  await shows(page, 'Nothing waits for approval.')
  await granted(one)
  await page.getByRole('link', { name: 'Now' }).click()
  await page.getByRole('row', { name: /carrier1 prod-dal10-carrier1-worker-1/ }).waitFor()
  await page.getByRole('link', { name: change }).first().click()
  await shows(page, 'next')
  await one.succeed()
  await granted(two)
  await shows(page, '1 passed, 1 running')
  await shows(page, 'Expected to end at about')
  await page.getByRole('link', { name: names[1] ?? '' }).click()
  await two.records({ type: 'step', step: 'install' }, line('Unpacking hello (2.0) over (1.0) ...', 0))
  await shows(page, 'Unpacking hello (2.0) over (1.0) ...')
  await two.succeed()
  await shows(page, 'succeeded: succeeded')
  await page.getByRole('link', { name: change }).first().click()
  await shows(page, '2 passed')
  await shows(page, 'complete')
  await page.context().close()
})

browserTest(
  '[DSH-9] a hold says why, shows what lifts it, and is lifted by whoever may, after a question',
  async (tt, site) => {
    const name = 'prod-dal10-web-worker-1'
    const machine = await site.add(name)
    const change = await site.world.raise(`prod machines: ${name} outage:0`)
    await approved(site, change)
    await granted(machine)
    const evidence = 'dpkg: error processing package example-cache (--configure):'
    await machine.fail(
      { message: 'the script of example-cache failed', evidence: [evidence], advice: ['look at the disk'] },
      ['Setting up example-cache (2.4-1) ...', evidence, 'done'],
    )
    const viewer = await site.open('vi')
    await viewer.goto(`${site.url}/#/project/${change}`)
    for (const part of [/failed: maintainer-script/, evidence, 'look at the disk', `smith retry ${change} ${name}`])
      await shows(viewer, part)
    for (const label of ['Retry', 'Skip', 'Pause', 'Cancel', 'Resolve as failed'])
      tt.equal(await viewer.getByRole('button', { name: label, exact: true }).count(), 0, `a viewer has no ${label}`)
    await viewer.context().close()
    const page = await site.open('ana')
    await page.goto(`${site.url}/#/machine/${name}`)
    await page.getByRole('button', { name: evidence }).click()
    await page.locator('.record.chosen', { hasText: evidence }).waitFor()
    tt.match(page.url(), /\/9$/, 'the line has an address')
    await page.goto(`${site.url}/#/project/${change}`)
    await page.getByRole('button', { name: 'Retry', exact: true }).click()
    const dialog = page.locator('dialog')
    await dialog.getByText(`smith retry ${change} ${name}`).waitFor()
    await page.keyboard.press('Escape')
    await dialog.waitFor({ state: 'detached' })
    tt.equal(machine.grants.length, 1, 'nothing is done before a person has confirmed it')
    await page.getByRole('button', { name: 'Retry', exact: true }).click()
    await dialog.getByLabel(/Reason/).fill('the disk is back')
    await dialog.getByRole('button', { name: 'Retry', exact: true }).click()
    await dialog.waitFor({ state: 'detached' })
    await until('the second grant', () => machine.grants.length === 2)
    await shows(page, 'try 2')
    await machine.succeed()
    await shows(page, '1 passed')
    await page.context().close()
  },
)

browserTest(
  '[DSH-10] a lost connection is said with its time, and what was missed is there afterwards, each row once',
  async (tt, site) => {
    const page = await site.open('cy')
    await page.locator('[data-connection=connected]').waitFor()
    await site.world.call('freeze', 'cy', { body: { reason: 'before' } })
    await shows(page, 'before')
    await site.world.api.close()
    await shows(page, /Not connected\s+since \d\d:\d\d:\d\d/)
    await page.locator('[data-connection=lost]').waitFor()
    const cy = site.world.driver
    const person = { kind: 'person', name: 'cy', roles: ['admin'] } as const
    await cy.submit(person, { type: 'command', command: { type: 'unfreeze', reason: 'while it was away' } })
    await cy.submit(person, { type: 'command', command: { type: 'freeze', reason: 'frozen again' } })
    await cy.submit(person, { type: 'command', command: { type: 'unfreeze', reason: 'and once more' } })
    const again = createApi(site.world.ports)
    await again.listen({ host: '127.0.0.1', port: site.world.port })
    await again.listenSocket(site.world.socket)
    t.teardown(again.close)
    await page.getByRole('button', { name: 'Try now' }).click()
    await page.locator('[data-connection=connected]').waitFor()
    await shows(page, 'while it was away')
    await page.locator(`[data-rev="${cy.rev()}"]`).waitFor()
    const rows = await page
      .locator('[data-row]')
      .evaluateAll((items) => items.map((item) => Number(item.getAttribute('data-row'))))
    tt.same(
      rows,
      [...new Set(rows)].toSorted((a, b) => b - a),
      'newest first, each once',
    )
    const newest = site.world.store.journal({ since: cy.rev() - 3, limit: 10 })
    tt.same(rows.slice(0, 3), newest.map(({ rev }) => rev).toReversed(), 'none of what was missed is missing')
    tt.equal(await page.getByText('Not connected').count(), 0)
    await page.context().close()
  },
)

browserTest(
  `[DSH-11] ${MACHINES} machines are listed, filtered and read as a timeline, with only what is in sight there`,
  async (tt, site) => {
    const names = Array.from(
      { length: MACHINES },
      (_, index) => `prod-syd05-fleet${Math.floor(index / 100)}-worker-${index}`,
    )
    for (const name of names) await site.add(name)
    const page = await site.open('vi')
    await page.goto(`${site.url}/#/machines`)
    await shows(page, new RegExp(`1,\\d\\d\\d machines`))
    tt.ok((await page.locator('.list .row').count()) < 100, 'only those in sight exist')
    await page.getByLabel('Filter').fill('fleet7 worker-77')
    await shows(page, /^10 machines of/)
    const change = await site.world.raise('prod machines: prod-syd05-fleet* outage:0')
    await page.goto(`${site.url}/#/project/${change}`)
    await shows(page, `${MACHINES} not started`)
    const list = page.getByRole('table', { name: 'Machines in their order' })
    tt.equal(await list.getAttribute('aria-rowcount'), String(MACHINES + 10))
    tt.ok((await page.locator('.list .row').count()) < 100)
    await list.focus()
    await page.keyboard.press('End')
    await shows(page, names.at(-1) ?? '')
    await page.keyboard.press('Home')
    await shows(page, names[0] ?? '')
    await page.getByRole('link', { name: 'Plan' }).click()
    await shows(page, `all ${MACHINES}`)
    await page.context().close()
  },
)

browserTest(
  `[DSH-12] a log of ${LINES} lines is read, searched and linked to, a part of it at a time`,
  async (tt, site) => {
    const name = 'prod-dal10-chatty-worker-1'
    const hidden = LINES - 12_345
    const order = await appendLines(site.world, name, LINES, (n) =>
      n === hidden || n === 17 ? `a Needle in ${n}` : `line ${n} says nothing`,
    )
    const page = await site.open('vi')
    const bytes = { got: 0 }
    page.on('response', (response) => {
      if (response.url().includes('/log?')) bytes.got += Number(response.headers()['content-length'] ?? 0)
    })
    await page.goto(`${site.url}/#/machine/${name}`)
    await shows(page, `line ${LINES} says nothing`)
    tt.ok((await page.locator('.record').count()) < 200, 'only those in sight exist')
    await page.getByLabel('Search').fill('needle')
    await page.getByRole('button', { name: 'Find' }).click()
    await page.locator('[data-found="2"][data-whole="true"]').waitFor()
    await page.locator('.record.chosen', { hasText: 'a Needle in 17' }).waitFor()
    tt.equal(await page.locator('.record.chosen .found').innerText(), 'Needle')
    await page.getByRole('button', { name: 'Next' }).click()
    await page.locator('.record.chosen', { hasText: `a Needle in ${hidden}` }).waitFor()
    await page.getByRole('button', { name: 'Begin' }).click()
    await shows(page, 'line 1 says nothing')
    tt.ok(bytes.got < 1_500_000, `${bytes.got} bytes of it were fetched`)
    const linked = await site.open('vi')
    await linked.goto(`${site.url}/#/machine/${name}/${order}/${hidden}`)
    await linked.locator('.record.chosen', { hasText: `a Needle in ${hidden}` }).waitFor()
    tt.ok(await linked.locator('.record.chosen').isVisible())
    await linked.context().close()
    await page.context().close()
  },
)

browserTest(
  '[DSH-13] hostile output stays text: no script, link, escape or reordering of it acts',
  async (tt, site) => {
    const name = 'prod-dal10-hostile-worker-1'
    const machine = await site.add(name)
    const change = await site.world.raise(`prod machines: ${name} outage:0`)
    await approved(site, change)
    await granted(machine)
    const bad = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    const page = await site.open('vi')
    const said: string[] = []
    page.on('console', (message) => said.push(message.text()))
    page.on('dialog', () => said.push('a dialogue'))
    const asked: string[] = []
    page.on('request', (request) => asked.push(request.url()))
    await machine.fail({ message: `${bad} \u202egnp.exe`, evidence: [bad], advice: [bad] }, [
      bad,
      '\u001b[31mred\u001b[0m \u001b]8;;https://evil.example\u0007a link\u001b]8;;\u0007 \u001b]0;title\u0007',
      'invoice\u202egnp.exe\u200b',
      'javascript:alert(1) "><svg onload=alert(1)>',
    ])
    for (const place of [`project/${change}`, `project/${change}/text`, `machine/${name}`, '']) {
      await page.goto(`${site.url}/#/${place}`)
      await shows(page, '<img src=x')
    }
    await page.goto(`${site.url}/#/machine/${name}`)
    await shows(page, 'a link')
    tt.match(await text(page, '.lines'), /\\x1b.*\]8;;https:\/\/evil\.example.*\\x07/s)
    tt.match(await text(page, '.lines'), /invoice\\u\{202e\}gnp\.exe\\u\{200b\}/)
    tt.equal(await page.locator('.ink-red').first().innerText(), 'red', 'a colour is shown')
    tt.equal(await page.locator('main img, main script, main svg, main a[href*=evil]').count(), 0)
    tt.equal(await page.evaluate('window.hit'), undefined)
    tt.same(
      asked.filter((url) => !url.startsWith(site.url)),
      [],
      'nothing was asked of anybody else',
    )
    tt.same(said, [], 'no violation of the policy, and no error')
    await page.context().close()
  },
)

browserTest('[DSH-14] a session that ended asks for a token again, and shows nothing more', async (tt, site) => {
  await site.world.person('old', ['viewer'])
  const page = await site.open('old')
  await page.locator('[data-connection=connected]').waitFor()
  const stored = await page.evaluate('JSON.stringify([localStorage, sessionStorage, document.cookie])')
  tt.equal(stored, '[{},{},""]', 'no script of the page can reach what logs in')
  await site.world.command({ type: 'userRevoke', name: 'old' })
  await page.getByLabel('Your personal token').waitFor()
  tt.equal(await page.getByRole('navigation').count(), 0)
  await page.getByLabel('Your personal token').fill('wrong')
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByRole('alert').waitFor()
  await page.context().close()
  const leaving = await site.open('vi')
  await leaving.getByRole('button', { name: 'Log out' }).click()
  await leaving.getByLabel('Your personal token').waitFor()
  await leaving.reload()
  await leaving.getByLabel('Your personal token').waitFor()
  await leaving.context().close()
})

browserTest(
  '[DSH-15] every view works by keyboard and on a narrow screen, light and dark, each control with its name',
  async (tt, site) => {
    const page = await site.open('cy', { viewport: { width: 340, height: 700 } })
    const views = [
      '',
      'approvals',
      'machines',
      'history',
      'project/CHG0000001',
      'project/CHG0000001/plan',
      'machine/prod-dal10-web-worker-1',
      'nowhere',
    ]
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme })
      for (const view of views) {
        await page.goto(`${site.url}/#/${view}`)
        await page.locator('main h1').waitFor()
        await page.locator('main h1:focus').waitFor()
        const wide = await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')
        tt.ok(Number(wide) <= 0, `/${view} needs no scrolling sideways: ${String(wide)}`)
        await page
          .getByText(/^Loading /)
          .first()
          .waitFor({ state: 'detached' })
        const pale = await page.evaluate(PALE)
        tt.same(pale, [], `/${view} in ${colorScheme}: every text can be read`)
        tt.same(await page.evaluate(CUT_NAMES), [], `/${view}: what tells a machine from the next is shown`)
        const unnamed = await page.evaluate(UNNAMED)
        tt.same(unnamed, [], `/${view}: everything that takes a click has a name`)
      }
    }
    await page.goto(`${site.url}/#/`)
    await page.reload()
    await page.locator('main h1').waitFor()
    await page.locator('.skip').focus()
    await page.keyboard.press('Enter')
    await page.locator('#content:focus').waitFor()
    await page.context().close()
  },
)

/** Names of machines in lists whose end can't be seen. */
const CUT_NAMES = `[...document.querySelectorAll('.list .row a.name')]
  .filter((link) => {
    const range = document.createRange()
    const name = link.firstChild
    range.setStart(name, name.length - 1)
    range.setEnd(name, name.length)
    const [end, cell] = [range, link.parentElement].map((one) => one.getBoundingClientRect())
    return end.right > cell.right + 1 || end.left < cell.left - 1
  })
  .map((link) => link.textContent)`

const UNNAMED = `[...document.querySelectorAll('a, button, input')]
  .filter((one) => !(one.textContent?.trim() || one.getAttribute('aria-label') || one.labels?.length))
  .map((one) => one.outerHTML.slice(0, 100))`

/** Texts with less contrast to their ground than WCAG 2.2 section 1.4.3 wants. */
const PALE = `(() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const numbers = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number)
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const rgb = numbers(getComputedStyle(at).backgroundColor)
      if (rgb.length === 3) return rgb
    }
    return [255, 255, 255]
  }
  const texts = '.state, .note, a, h1, button:not(:disabled), .label, code, td, dt, dd, .fact, .actor, .record span'
  return [...document.querySelectorAll(texts)].flatMap((element) => {
    const [a, b] = [light(numbers(getComputedStyle(element).color).slice(0, 3)), light(ground(element))]
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    return ratio >= 4.5 ? [] : [ratio.toFixed(1) + ' ' + element.outerHTML.slice(0, 120)]
  })
})()`

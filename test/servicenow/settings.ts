/** The settings of a site whose ServiceNow is the stand-in, as the real configuration reads them. */
import type { ServiceNowSettings } from '../../coordinator/change/servicenow/settings.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { GROUP } from './records.ts'

/** The settings that a configuration file gives, with these lines in its section. */
export function settingsOf(lines = ''): ServiceNowSettings {
  const answer = parseConfig(
    `instance = "test"
[change]
provider = "servicenow"
[change.servicenow]
url = "https://stand-in"
client_id = "smith"
secret_file = "/secret"
assignment_group = "${GROUP}"
${lines}
`,
    'c.toml',
  )
  if (!answer.ok || answer.config.change.provider !== 'servicenow') throw new Error(JSON.stringify(answer))
  return answer.config.change.servicenow
}

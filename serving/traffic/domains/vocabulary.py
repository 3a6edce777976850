"""Word lists that the generated domains draw from."""

PEOPLE = (
    "Ada Ahmed Aiko Alice Amara Anders Anna Arjun Astrid Beatriz Ben Bilal Bruno Carla Carlos Chen Chloe Clara Dana "
    "Daniel David Diego Dmitri Elena Elif Emeka Emil Emma Erik Esther Eva Farah Fatima Felix Finn Freya Gabriel "
    "Grace Greta Hana Hassan Helen Hiro Hugo Ibrahim Ida Ines Ingrid Isaac Ivan Jack James Jana Javier Jonas Julia "
    "Kai Kamal Karim Kate Kenji Klara Kofi Lars Laura Leila Lena Leo Liam Lina Lucas Lucy Luis Maja Marco Maria "
    "Marta Mei Mia Milan Mina Nadia Nana Nina Noah Nora Olga Oliver Omar Oscar Paul Pedro Petra Priya Quinn Rahul "
    "Rania Ravi Rosa Ruth Sam Samir Sara Sofia Stefan Sven Tara Theo Thomas Tina Tomas Uma Vera Victor Wei Yara "
    "Yuki Yusuf Zara Zoe"
).split()

THINGS = (
    "apples pears oranges lemons plums peaches melons onions carrots potatoes tomatoes eggs loaves muffins cookies "
    "pies candles pencils pens notebooks books stamps coins marbles beads buttons shells stickers cards postcards "
    "magnets balloons ribbons flowers roses tulips seeds bulbs shirts socks hats scarves gloves towels plates cups "
    "bowls spoons bricks tiles planks nails screws bolts batteries cables lamps chairs boxes crates bottles jars cans "
    "bags tickets badges flags kites puzzles toys dolls drums balls ropes stones bars rolls sandwiches photos maps"
).split()

PLACES = (
    "Amsterdam Athens Bergen Berlin Bilbao Bogota Boston Bremen Cairo Chicago Cork Dakar Delhi Denver Dublin Galway "
    "Geneva Ghent Hanoi Helsinki Houston Istanbul Jakarta Kampala Kyoto Lagos Leeds Lima Lisbon London Lyon Madrid "
    "Malmo Manila Milan Montreal Mumbai Munich Nairobi Naples Osaka Oslo Ottawa Paris Porto Prague Quito Riga Rome "
    "Santiago Seoul Seville Sofia Sydney Tallinn Tokyo Toronto Turin Utrecht Vienna Vilnius Warsaw Zagreb Zurich"
).split()

SHOPS = "shop market bakery bookshop kiosk store stall supermarket florist cafe".split()

CONTAINERS = "box bag crate basket shelf tray drawer case jar packet carton bin".split()

VEHICLES = "train bus car truck van ferry tram bicycle motorbike coach".split()

WORKERS = "baker printer machine painter gardener typist robot potter weaver packer".split()

COLOURS = "red green blue yellow black white orange purple brown grey pink silver gold teal".split()

STATUSES = "active pending closed open cancelled shipped paid overdue draft approved rejected archived".split()

CATEGORIES = "books garden music sports toys office kitchen travel health tools food fashion games pets".split()

SUBJECTS = (
    "budget review, team lunch, project plan, design notes, weekly report, server upgrade, holiday rota, "
    "launch checklist, travel costs, new hires, security audit, spring sale, quarterly goals, office move, "
    "data backup, customer survey, press release, training day, contract draft, road map"
).split(", ")
